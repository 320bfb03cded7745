"""Which passes of a convolution on the CPU run on which own kernels, or on oneDNN's: a rule with its reasons.

The figures behind it are in docs/cpu.md. ``FASTINPAINT_CPU_CONV=own|onednn`` overrides it (``own`` wherever the own
kernels can compute the convolution at all).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cpu_thin as thin
from fastinpaint.ops.conv_block import cpu_winograd as winograd
from fastinpaint.ops.types import Geometry, Source

VARIABLE = "FASTINPAINT_CPU_CONV"
PASSES = ("fwd", "dgrad", "wgrad")

# Direct multiplications for one of Winograd's, and where every sub-image is one tile with padding around it.
SAVED, SAVED_ALONE = 9 / 4, 4.0
# Speed of the own kernels as a share of oneDNN's, multiplication for multiplication. With taps in time each tile block
# streams three times the weights.
SHARE, SHARE_IN_TIME = 0.8, 0.65
# Packed weights of one tap in time beyond this do not stay in the caches while tile blocks stream them; with several
# taps in time each block streams all of them for every frame.
CACHED_WEIGHT, CACHED_WEIGHT_IN_TIME = 16 << 20, 1 << 20


_answers: dict[tuple, ModuleType | None] = {}  # of `own`: asked three times a layer and step, which thin nets notice
MOST_ANSWERS = 4096


def own(which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> ModuleType | None:
    """The own kernels that a pass, one of `PASSES`, runs on: `cpu_thin` or `cpu_winograd`; None for oneDNN's."""
    asked = os.environ.get(VARIABLE)
    maps = tuple((source.x.shape, source.x.dtype) for source in sources)
    question = (which, maps, weight.shape, weight.dtype, geometry, torch.get_num_threads(), asked)
    if question not in _answers:
        if len(_answers) >= MOST_ANSWERS:
            _answers.clear()
        _answers[question] = _own(which, sources, weight, geometry, asked)
    return _answers[question]


def _own(
    which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry, asked: str | None
) -> ModuleType | None:
    if asked not in (None, "", "own", "onednn"):
        raise ValueError(f"{VARIABLE} must be own or onednn, got {asked!r}.")
    if asked == "onednn":
        return None
    if thin.fits(sources, weight, geometry):
        return thin
    fits = winograd.fits(sources, weight, geometry)
    return winograd if fits and (asked == "own" or winograd_is_faster(which, sources, weight, geometry)) else None


def winograd_is_faster(which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether a pass that the Winograd kernels can compute is faster there than with oneDNN."""
    if torch_is_slow(sources[0].x, sum(source.x.shape[1] for source in sources), weight):
        return True
    kind, in_time = winograd.kind_of(weight, geometry), winograd.axes(weight, geometry).kernel_t > 1
    if kind == winograd.SAME:
        return _same(which, sources[0].x, weight, geometry)
    if kind == winograd.UP:
        return which != "dgrad" or packed_bytes(weight) <= (CACHED_WEIGHT_IN_TIME if in_time else CACHED_WEIGHT)
    # A strided 3x3 kernel falls into phases of 1, 2, 2 and 4 taps, which take 49 multiplications where a direct sum
    # takes 81: in time, the weights streamed eat the gain.
    return not in_time and (which == "wgrad" or packed_bytes(weight) <= CACHED_WEIGHT)


def torch_is_slow(x: Tensor, channels: int, weight: Tensor) -> bool:
    """Whether torch leaves a convolution of x's batch and space to its own slow_conv3d, not to oneDNN.

    That is a lone video (on one thread any batch of videos) with N * C * T * H up to 20480 and 3 taps a side.
    """
    if x.dim() != 5 or weight.shape[-1] > 3 or (len(x) > 1 and torch.get_num_threads() > 1):
        return False
    return len(x) * channels * x.shape[2] * x.shape[3] <= 20480


def packed_bytes(weight: Tensor) -> int:
    """The size of a 4x4 stride-2 weight, transformed: four phases of 16 values for 16 taps."""
    return 4 * 16 * weight.shape[0] * weight.shape[1] * 4


def live_share(x: Tensor, weight: Tensor, geometry: Geometry) -> float:
    """The share of a 3x3 kernel's taps that do not fall on padding; oneDNN skips the others."""
    share = 1.0
    for length, dilation in zip(x.shape[-2:], winograd.axes(weight, geometry).dilation, strict=True):
        share *= (1 + 2 * max(0.0, 1 - dilation / length)) / 3
    return share


def _same(which: str, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    a = winograd.axes(weight, geometry)
    if any(length < 2 * step for length, step in zip(x.shape[-2:], a.dilation, strict=True)):
        return False  # sub-images smaller than a tile of 2x2
    if which == "wgrad":
        return True  # oneDNN's does not gain by dead taps
    alone = all(length <= 2 * step for length, step in zip(x.shape[-2:], a.dilation, strict=True))
    saved = SAVED_ALONE if alone else SAVED
    return live_share(x, weight, geometry) * saved * (SHARE_IN_TIME if a.kernel_t > 1 else SHARE) >= 1
