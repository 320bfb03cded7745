"""The convolutions that the own Winograd kernels of csrc/conv_block compute: which ones, and how they are called."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.conv_block import geometry as geometry_of
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad, address

SAME, UP, DOWN = range(3)
CHANNELS = 16  # every channel count must be a multiple: a vector of AVX-512
MAX_TIME_TAPS = 8
# What follows from sizes alone is needed several times per layer and step. Computing it each time would take thin nets
# longer than their arithmetic.
REMEMBERED = 4096

output_shape = functools.lru_cache(REMEMBERED)(geometry_of.output_shape)


class ConvShape(ctypes.Structure):
    """`fi::ConvShape` of csrc/conv_block/cpu/winograd.h."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("batch", "frames_in", "height_in", "width_in", "frames_out", "height_out", "width_out"),
            *("channels_in", "channels_out", "kind", "kernel_t", "kernel", "time_step", "time_origin"),
            *("dilation_h", "dilation_w", "flip"),
        )
    )


class Axes(NamedTuple):
    """A geometry with its axis of time apart from the two of a frame."""

    kernel: tuple[int, int]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    kernel_t: int
    stride_t: int
    padding_t: int
    dilation_t: int


def axes(weight: Tensor, geometry: Geometry) -> Axes:
    """The geometry of a 2D or 3D convolution; 2D is one tap in time."""
    return _axes(weight.shape, geometry)


@functools.lru_cache(REMEMBERED)
def _axes(weight: torch.Size, geometry: Geometry) -> Axes:
    in_time = len(weight) == 5
    stride_t, padding_t, dilation_t = (v[0] for v in geometry[:3]) if in_time else (1, 0, 1)
    stride, padding, dilation = (v[-2:] for v in geometry[:3])
    kernel_t = weight[2] if in_time else 1
    return Axes((weight[-2], weight[-1]), stride, padding, dilation, kernel_t, stride_t, padding_t, dilation_t)


def kind_of(weight: Tensor, geometry: Geometry) -> int | None:
    """SAME, UP or DOWN of csrc/conv_block/cpu/winograd.h, or None where the convolution is none of them."""
    return _kind_of(weight.shape, geometry)


@functools.lru_cache(REMEMBERED)
def _kind_of(weight: torch.Size, geometry: Geometry) -> int | None:
    a = _axes(weight, geometry)
    if geometry.groups != 1 or a.stride_t != 1 or a.kernel_t > MAX_TIME_TAPS or a.kernel[0] != a.kernel[1]:
        return None
    if a.stride == (1, 1) and not geometry.transposed and a.kernel == (3, 3) and a.padding == a.dilation:
        return SAME
    if a.stride == (2, 2) and a.padding == (1, 1) and a.dilation == (1, 1) and a.kernel[0] in (3, 4):
        return UP if geometry.transposed else DOWN
    return None


def takes_dtypes(sources: Sequence[Source], weight: Tensor) -> bool:
    """Whether maps are float32 or bfloat16, all of one dtype, and the weight is as the maps or float32."""
    dtype = sources[0].x.dtype
    alike = all(s.x.dtype == dtype for s in sources)
    return alike and dtype in (torch.float32, torch.bfloat16) and weight.dtype in (dtype, torch.float32)


def fits(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels can compute this convolution and both its gradients."""
    channels = [weight.shape[0], weight.shape[1], *(s.x.shape[1] for s in sources)]
    return (
        kind_of(weight, geometry) is not None
        and all(c > 0 and c % CHANNELS == 0 for c in channels)
        and takes_dtypes(sources, weight)
        and sources[0].x.numel() > 0
    )


def _sizes(shape: torch.Size) -> tuple[int, int, int]:
    """Frames, height, width."""
    return (shape[2] if len(shape) == 5 else 1, shape[-2], shape[-1])


@functools.lru_cache(REMEMBERED)
def forward_shape(x: torch.Size, y: torch.Size, weight: torch.Size, geometry: Geometry) -> ConvShape:
    """The correlation from the activation to y, of maps and a weight of these shapes."""
    a = _axes(weight, geometry)
    sign = -1 if geometry.transposed else 1
    into, out = (0, 1) if geometry.transposed else (1, 0)
    return ConvShape(
        x[0], *_sizes(x), *_sizes(y), weight[into], weight[out], _kind_of(weight, geometry),
        a.kernel_t, a.kernel[0], sign * a.dilation_t, -sign * a.padding_t, *a.dilation, 0,
    )  # fmt: skip


@functools.lru_cache(REMEMBERED)
def dgrad_shape(x: torch.Size, y: torch.Size, weight: torch.Size, geometry: Geometry) -> ConvShape:
    """The correlation from G to the activation's gradient."""
    s = forward_shape(x, y, weight, geometry)
    kind = {SAME: SAME, UP: DOWN, DOWN: UP}[s.kind]
    return ConvShape(
        s.batch, *_sizes(y), *_sizes(x), s.channels_out, s.channels_in, kind,
        s.kernel_t, s.kernel, -s.time_step, -s.time_origin, s.dilation_h, s.dilation_w, int(kind == SAME),
    )  # fmt: skip


def apart_in_sets(weight: Tensor) -> Tensor:
    """The weight, copied to channels-last where its channels lie 64 values apart, as with 4x4x4 taps.

    They then share a few sets of the cache, out of which packing drops every line before it has read the whole of it:
    3DCN 9 forward at F=4 takes 12.7 ms of one thread, and 9.8 with channels innermost.
    """
    return native.dense(weight) if weight.dim() == 5 and weight.stride(1) % 64 == 0 else weight


def strides(weight: Tensor, geometry: Geometry, backward: bool) -> ctypes.Array[ctypes.c_int64]:
    """Strides of the correlation's in and out channels and of t, y, x."""
    return weight_strides(weight.stride(), geometry.transposed != backward)


@functools.lru_cache(REMEMBERED)
def weight_strides(weight: tuple[int, ...], into_first: bool) -> ctypes.Array[ctypes.c_int64]:
    """Those of the in and out channels, which are axes 0 and 1 or 1 and 0, and of t, y, x."""
    into, out = (0, 1) if into_first else (1, 0)
    time = weight[2] if len(weight) == 5 else 0
    return native.array(ctypes.c_int64, 5)(weight[into], weight[out], time, weight[-2], weight[-1])


def tile(shape: ConvShape, dtype: torch.dtype, of_weight: bool = False) -> int:
    """Outputs a side of a tile: of the correlation, or `of_weight` of the weight gradient."""
    return int(native.library().fi_cpu_winograd_tile(ctypes.byref(shape), native.DTYPES[dtype], of_weight))


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y of dense sources and its batch mean and variance, the activation read on the fly."""
    x = sources[0].x
    shape_out = output_shape(x.shape, weight.shape, geometry)
    channels = shape_out[1]
    y = buffer_pool.empty(shape_out, x.dtype, native.memory_format(x.dim()))
    mean, var = (torch.empty(channels), torch.empty(channels)) if stats else (None, None)
    bias = None if bias is None else bias.float().contiguous()
    shape, weight = forward_shape(x.shape, y.shape, weight.shape, geometry), apart_in_sets(weight)
    native.library().fi_cpu_winograd_fwd(
        ctypes.byref(shape), native.c_sources(sources), len(sources), weight.data_ptr(),
        strides(weight, geometry, backward=False), address(bias), y.data_ptr(), address(mean), address(var),
        native.DTYPES[x.dtype], native.DTYPES[weight.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return y, mean, var


def dgrad(
    g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry, needs: Sequence[bool]
) -> list[SourceGrad]:
    """The gradients of dense sources from G, itself given as one; the activation's backward is the epilogue."""
    grads, addresses = native.empty_grads(sources, needs)
    shape, weight = dgrad_shape(sources[0].x.shape, g.x.shape, weight.shape, geometry), apart_in_sets(weight)
    native.library().fi_cpu_winograd_dgrad(
        ctypes.byref(shape), native.c_sources([g]), weight.data_ptr(), strides(weight, geometry, backward=True),
        native.c_sources(sources), len(sources), addresses, native.DTYPES[g.x.dtype],
        native.DTYPES[weight.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return grads


def empty_gradient(weight: Tensor) -> Tensor:
    """Memory for a weight's gradient, with the weight's strides; of a large channels-last one from the pool.

    A training loop frees all gradients before each step, and the system would hand out their pages one fault at a time.
    """
    layout = native.FORMATS[weight.dim()]
    if weight.nbytes >= buffer_pool.LEAST_BYTES and weight.is_contiguous(memory_format=layout):
        return buffer_pool.empty(tuple(weight.shape), weight.dtype, layout)
    return torch.empty_like(weight)


def wgrad(g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> Tensor:
    """dweight, in the layout of the weight; G and the sources are dense."""
    dweight = empty_gradient(weight)
    shape = forward_shape(sources[0].x.shape, g.x.shape, weight.shape, geometry)
    native.library().fi_cpu_winograd_wgrad(
        ctypes.byref(shape), native.c_sources(sources), len(sources), native.c_sources([g]), dweight.data_ptr(),
        strides(dweight, geometry, backward=False), native.DTYPES[g.x.dtype], native.DTYPES[weight.dtype],
        torch.get_num_threads(),
    )  # fmt: skip
    return dweight
