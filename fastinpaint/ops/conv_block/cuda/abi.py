"""`fi::Conv` of csrc/conv_block/cuda/abi.cuh, filled from tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cuda as native
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.types import Geometry, Source

Triple = ctypes.c_int * 3
Strides = ctypes.c_int64 * 5


class CSourceGradient(ctypes.Structure):
    """`fi::SourceGradient`."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("dx", "daddend", "dmean", "dscale", "dshift"))


class CConv(ctypes.Structure):
    """`fi::Conv`."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("dtype", "transposed", "batch", "sources")),
        *((name, Triple) for name in ("in_size", "out_size", "kernel", "stride", "padding", "dilation")),
        ("out_channels", ctypes.c_int),
        ("groups", ctypes.c_int),
        ("shared_limit", ctypes.c_int),
        ("hopper", ctypes.c_int),
        ("source", native.CSource * 2),
        ("gradient", native.CSource),
        ("weight", ctypes.c_void_p),
        ("weight_stride", Strides),
        *((name, ctypes.c_void_p) for name in ("bias", "y", "mean", "var")),
        ("source_gradient", CSourceGradient * 2),
        ("dweight", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    )


SOURCE, GRADIENT = CConv.source.offset, CConv.source_gradient.offset


def three(values: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int]:
    """One entry per axis T, H, W. A 2D convolution has `missing` along T."""
    return Triple(*[missing] * (3 - len(values)), *values)


def weight_strides(strides: Sequence[int], transposed: bool) -> ctypes.Array[ctypes.c_int64]:
    """A weight's strides as the kernels take them: of C_out, C_in, kT, kH, kW."""
    first, second, *space = strides
    channels = (second, first) if transposed else (first, second)
    return Strides(*channels, *[0] * (3 - len(space)), *space)


def describe(
    sources: Sequence[Source], weight: Tensor, geometry: Geometry, out_shape: Sequence[int], tf32: bool | None = None
) -> CConv:
    """Describe the convolution of dense sources into a map of that shape. The caller sets outputs and workspace.

    tf32: of float32 maps, whether products are in tf32; by default as torch's flags say.
    """
    first = sources[0].x
    if tf32 is None:
        tf32 = first.dtype == torch.float32 and tf32_convolutions()
    dtype = native.TF32 if tf32 else native.DTYPES[first.dtype]
    sizes = (first.shape, tuple(out_shape), weight.shape, weight.stride())
    fixed = _fixed(sizes, geometry, dtype, len(sources), native.shared_limit(first), native.hopper(first))
    conv = CConv.from_buffer_copy(fixed)
    for i, (x, mean, scale, shift, relu, addend) in enumerate(sources):
        vectors = (0, 0, 0)
        if mean is not None and scale is not None and shift is not None:
            vectors = (mean.data_ptr(), scale.data_ptr(), shift.data_ptr())
        native.C_SOURCE.pack_into(
            conv, SOURCE + i * native.C_SOURCE.size, x.data_ptr(), 0 if addend is None else addend.data_ptr(),
            *vectors, 1.0, 1.0,
            x.shape[1], int(relu),
        )  # fmt: skip
    conv.weight = weight.data_ptr()
    return conv


@functools.lru_cache(4096)
def _fixed(
    sizes: tuple[Any, ...], geometry: Geometry, dtype: int, sources: int, shared_limit: int, hopper: int
) -> bytes:
    """All of a `CConv` but its addresses. sizes: shapes of the first source, of y and the weight; its strides."""
    first, out, weight, strides = sizes
    stride, padding, dilation, _, transposed, groups = geometry
    conv = CConv(dtype, int(transposed), first[0], sources)
    conv.in_size, conv.out_size = three(first[2:], 1), three(out[2:], 1)
    conv.kernel, conv.stride, conv.padding = three(weight[2:], 1), three(stride, 1), three(padding, 0)
    conv.dilation, conv.out_channels, conv.groups = three(dilation, 1), out[1], groups
    conv.shared_limit, conv.hopper = shared_limit, hopper
    conv.weight_stride = weight_strides(strides, transposed)
    return bytes(conv)
