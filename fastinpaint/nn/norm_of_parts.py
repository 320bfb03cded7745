"""Batch norm over concatenated raw maps, each of which keeps its own statistics.

    (cat(y_1, ..., y_n) - mean) * scale + shift,   mean = cat(mean_1, ..., mean_n), and so var, scale, shift

The statistics of a channel do not depend on what is concatenated beside it. In a dense block every later batch norm
reads those of y_i again, so they are computed once, and their gradient reaches y_i in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastinpaint.nn.activated import Normed
from fastinpaint.nn.raw import Part
from fastinpaint.ops.batch_norm.reference import Norm

Affine = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def statistics(parts: Sequence[Part], backend: str) -> tuple[Tensor, Tensor]:
    """Batch mean and biased variance ``[sum C_i]`` of raw maps, concatenated."""
    found = [part.raw.statistics(backend) for part in parts]
    return torch.cat([mean for mean, _ in found]), torch.cat([var for _, var in found])


def normalised(
    parts: Sequence[Part], mean: Tensor, var: Tensor, norm: Norm, of_batch: bool, affine: Affine
) -> list[Part]:
    """The parts, normalised.

    Args:
        parts: raw maps, unchanged.
        mean, var: ``[sum C_i]``.
        norm: the batch norm, of all channels.
        of_batch: whether mean and var are the maps' own statistics.
        affine: gives mean, scale and shift of all channels, from mean and var.
    """
    sizes = [part.raw.shape[1] for part in parts]
    vectors = [vector.split(sizes) for vector in affine(mean, var)]
    weights, biases = (
        [None] * len(parts) if vector is None else vector.split(sizes) for vector in (norm.weight, norm.bias)
    )
    if torch.compiler.is_compiling():
        return [Part(part.raw, *each) for part, *each in zip(parts, *vectors, strict=True)]
    found = []
    for part, own, weight, bias, *each in zip(parts, var.split(sizes), weights, biases, *vectors, strict=True):
        later = Normed(each[0], own, weight, bias, norm.eps, of_batch=of_batch, vectors=tuple(each))
        found.append(Part(part.raw, norm=later))
    return found
