"""How much of each candidate goes into a hole pixel: a small network on features of each.

`tools/blend/train.py` trains it on known pixels that were hidden. Its weights, about two thousand numbers in half
precision, are part of the package; docs/quality.md is their model card.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from fastinpaint.propagation.candidates import SPATIAL, Candidates

WEIGHTS = Path(__file__).with_name("blend.safetensors")
DOUBT = 12.0
"""Expected error, in grey levels, at which the confidence of a pixel that other frames show falls to 1/e."""
USUAL = 3.0
"""Standard deviations from the mean that features are clipped at: larger holes than those trained on count as those."""

ROWS = 128
"""Pixels of one matrix product. For a larger one OpenBLAS takes threads of its own, and these go on spinning beside the
threads that fill other frames: 170 instead of 100 ms of processor time a frame of 640x360."""

Weights = dict[str, np.ndarray]
"""`mean` and `std` of the features ``[F]``; `a1`, `b1`, `a2`, `b2`, `a3`, `b3` of `blend`; all float32."""


class Blended(NamedTuple):
    """For each hole pixel: the colour, float32 ``[N, 3]``, and the confidence, float32 ``[N]`` in [0, 1)."""

    value: np.ndarray
    confidence: np.ndarray


@cache
def shipped() -> Weights:
    """The weights of the package."""
    return {name: array.astype(np.float32) for name, array in load_file(WEIGHTS).items()}


def blend(candidates: Candidates, weights: Weights | None = None) -> Blended:
    """Mix a frame's candidates.

        h1 = relu(A1 x + b1),  h2 = relu(A2 h1 + b2),  (z, e) = A3 h2 + b3,   x the normalised features, clipped
        w_k = softmax over present candidates of z_k,   v = sum_k w_k value_k
        confidence = (sum of temporal candidates' w_k) * exp(-expm1(e) / DOUBT),   e the expected log(1 + error)

    So what no frame shows has confidence 0.

    Args:
        weights: None takes those of the package.
    """
    w = shipped() if weights is None else weights
    hidden = ((candidates.features - w["mean"]) / w["std"]).clip(-USUAL, USUAL)
    for layer in ("1", "2"):
        hidden = np.maximum(_product(hidden, w[f"a{layer}"]) + w[f"b{layer}"], 0)
    out = (_product(hidden, w["a3"]) + w["b3"]).T
    logits = np.where(candidates.present, out[:-1], -np.inf)
    share = np.exp(logits - logits.max(0))
    share /= share.sum(0)
    value = np.einsum("kn,knc->nc", share, candidates.values, dtype=np.float32)
    carried = share[len(SPATIAL) :].sum(0)
    confidence = carried * np.exp(-np.expm1(out[-1].clip(0, 5)) / DOUBT)
    return Blended(value, confidence)


def _product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``x @ weight.T``, `ROWS` rows at a time: ``[N, in]`` and ``[out, in]`` to ``[N, out]``."""
    padded = np.pad(x, ((0, -len(x) % ROWS), (0, 0))).reshape(-1, ROWS, x.shape[1])
    return (padded @ weight.T).reshape(-1, len(weight))[: len(x)]
