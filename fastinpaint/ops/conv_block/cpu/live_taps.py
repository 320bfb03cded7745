"""Convolutions whose outer taps meet only padding, as convolutions without those taps.

A 3x3 kernel of dilation 24 on a 16x16 map reads one place with its centre and padding with the other eight taps. It is
a 1x1 convolution of the weight's centre. oneDNN multiplies by those zeros in the weight gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.cpu import thin, winograd
from fastinpaint.ops.conv_block.geometry import live_places
from fastinpaint.ops.types import Geometry, Source

Index = tuple[slice, ...]


def trimmed(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry, Index | None]:
    """The weight and the geometry of an equal convolution, without taps that meet only padding.

    Returns:
        The weight, a view of its live taps where some are dead; the geometry that goes with it; and the index of that
        view in the weight, None where no tap was left out.
    """
    found = _live(sources[0].x.shape, weight.shape, geometry)
    return (weight, geometry, None) if found is None else (weight[found[0]], found[1], found[0])


def widened(dweight: Tensor | None, weight: Tensor, index: Index | None) -> Tensor | None:
    """The gradient of the whole weight, in its layout: zero for the taps that were left out."""
    if dweight is None or index is None:
        return dweight
    whole = torch.zeros_like(weight)
    whole[index] = dweight
    return whole


@functools.lru_cache(winograd.REMEMBERED)
def _live(x: torch.Size, weight: torch.Size, geometry: Geometry) -> tuple[Index, Geometry] | None:
    """The index of the live taps and the geometry without the others; None where every tap counts.

    As many taps are left out at either end of an axis, because a convolution pads both ends alike. Thin and depthwise
    convolutions keep theirs, which cost little.
    """
    if geometry.transposed or min(weight[:2]) <= thin.THIN or max(weight[2:]) == 1 or 0 in x or 0 in weight:
        return None
    y = winograd.output_shape(x, weight, geometry)
    dead = []
    for axis, taps in enumerate(weight[2:]):
        stride, padding, dilation = (values[axis] for values in geometry[:3])
        live = [live_places(y[2 + axis], x[2 + axis], k * dilation - padding, stride) > 0 for k in range(taps)]
        if not any(live):
            return None
        dead.append(min(live.index(True), live[::-1].index(True), padding // dilation))
    if not any(dead):
        return None
    index = (slice(None), slice(None), *(slice(n, taps - n) for n, taps in zip(dead, weight[2:], strict=True)))
    left = tuple(p - n * d for p, n, d in zip(geometry.padding, dead, geometry.dilation, strict=True))
    return index, geometry._replace(padding=left)
