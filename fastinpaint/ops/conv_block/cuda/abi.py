"""`fi::Conv` of csrc/conv_block/cuda/abi.cuh, filled from tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

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


def three(values: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int]:
    """One entry per axis T, H, W. A 2D convolution has `missing` along T."""
    return Triple(*[missing] * (3 - len(values)), *values)


def weight_strides(weight: Tensor, transposed: bool) -> ctypes.Array[ctypes.c_int64]:
    """Strides of C_out, C_in, kT, kH, kW."""
    channels = (1, 0) if transposed else (0, 1)
    space = [0] * (5 - weight.dim()) + native.strides(weight, range(2, weight.dim()))
    return Strides(*native.strides(weight, channels), *space)


def describe(sources: Sequence[Source], weight: Tensor, geometry: Geometry, out_shape: Sequence[int]) -> CConv:
    """Describe the convolution of dense sources into a map of that shape. The caller sets outputs and workspace."""
    stride, padding, dilation, _, transposed, _ = geometry
    first = sources[0].x
    tf32 = first.dtype == torch.float32 and tf32_convolutions()
    conv = CConv(native.TF32 if tf32 else native.DTYPES[first.dtype], int(transposed), first.shape[0], len(sources))
    conv.in_size, conv.out_size = three(first.shape[2:], 1), three(out_shape[2:], 1)
    conv.kernel, conv.stride, conv.padding = three(weight.shape[2:], 1), three(stride, 1), three(padding, 0)
    conv.dilation, conv.out_channels, conv.hopper = three(dilation, 1), out_shape[1], native.hopper(first)
    conv.shared_limit = native.shared_limit(first)
    for i, source in enumerate(sources):
        conv.source[i] = native.c_source(source)
    conv.weight, conv.weight_stride = weight.data_ptr(), weight_strides(weight, transposed)
    return conv
