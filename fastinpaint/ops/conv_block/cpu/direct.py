"""Shared by the own direct convolutions of csrc/conv_block/cpu/direct.h: the shape as they take it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.cpu import winograd
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source

MOST_TAPS = 7  # along one axis
MOST_STRIDE = 2


class DirectShape(ctypes.Structure):
    """`fi::DirectShape` of csrc/conv_block/cpu/direct.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "channels_in", "channels_out", "groups")),
        *((name, ctypes.c_int64 * 3) for name in ("into", "out", "kernel", "stride", "padding", "dilation")),
    )


def fits(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether taps, strides, dtypes and sizes are such that the direct kernels can compute all three passes."""
    x = sources[0].x
    return (
        not geometry.transposed
        and max(weight.shape[2:]) <= MOST_TAPS
        and max(geometry.stride) <= MOST_STRIDE
        and all(t.dtype == torch.float32 for t in (weight, *(s.x for s in sources)))
        and x.numel() > 0
        and weight.numel() > 0
        and min(winograd.output_shape(x.shape, weight.shape, geometry)) > 0
    )


@functools.lru_cache(winograd.REMEMBERED)
def shape_of(x: torch.Size, y: tuple[int, ...], weight: torch.Size, geometry: Geometry) -> DirectShape:
    """The convolution from the activation, which has x's batch and space, to y as the kernels take it."""

    def axes(sizes: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int64]:
        return native.array(ctypes.c_int64, 3)(*([missing] * (3 - len(sizes))), *sizes)

    return DirectShape(
        x[0], weight[1] * geometry.groups, weight[0], geometry.groups, axes(x[2:], 1), axes(y[2:], 1),
        axes(weight[2:], 1), axes(geometry.stride, 1), axes(geometry.padding, 0), axes(geometry.dilation, 1),
    )  # fmt: skip
