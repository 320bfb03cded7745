"""The convolutions that the own direct kernels of csrc/conv_block/cpu/thin.h compute: 1 to 4 channels on one side.

Forward and data gradient are two kernels each way: `widen` makes the map of many channels from that of few, `narrow`
does the reverse.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.activation import cpu as activation
from fastinpaint.ops.conv_block.cpu import winograd
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad, address

THIN = 4  # most channels of the thin map
WIDE = 16  # those of the wide one are a multiple: a vector of AVX-512
MOST_TAPS = (5, 7, 7)  # t, h, w
MOST_STRIDE = 2


class ThinShape(ctypes.Structure):
    """`fi::ThinShape` of csrc/conv_block/cpu/thin.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "wide_channels", "thin_channels")),
        *((name, ctypes.c_int64 * 3) for name in ("wide", "thin", "kernel", "stride", "padding", "dilation")),
        ("thin_out", ctypes.c_int64),
    )


def fits(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels can compute this convolution and both its gradients."""
    into = [s.x.shape[1] for s in sources]
    narrow, widen = thin_out(weight), weight.shape[1] <= THIN and weight.shape[0] % WIDE == 0
    if geometry.transposed or geometry.groups != 1 or not (widen or (narrow and all(c % WIDE == 0 for c in into))):
        return False
    return (
        all(0 < taps <= most for taps, most in zip(weight.shape[:1:-1], MOST_TAPS[::-1], strict=False))
        and max(geometry.stride) <= MOST_STRIDE
        and winograd.takes_dtypes(sources, weight)
        and min(*weight.shape, *into, *winograd.output_shape(sources[0].x.shape, weight.shape, geometry)) > 0
        and sources[0].x.numel() > 0
    )


def thin_out(weight: Tensor) -> bool:
    """Whether the thin map is the convolution's output: many channels become few."""
    return weight.shape[0] <= THIN < weight.shape[1]


@functools.lru_cache(winograd.REMEMBERED)
def shape_of(x: torch.Size, y: tuple[int, ...], weight: torch.Size, geometry: Geometry, thin_out: bool) -> ThinShape:
    """The convolution from x to y as the kernels take it."""

    def axes(sizes: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int64]:
        return native.array(ctypes.c_int64, 3)(*([missing] * (3 - len(sizes))), *sizes)

    wide, thin = (x, y) if thin_out else (y, x)
    return ThinShape(
        x[0], wide[1], thin[1], axes(wide[2:], 1), axes(thin[2:], 1), axes(weight[2:], 1), axes(geometry.stride, 1),
        axes(geometry.padding, 0), axes(geometry.dilation, 1), int(thin_out),
    )  # fmt: skip


def strides(weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """Strides of the thin and the wide channels and of t, y, x."""
    out, into = weight.shape[:2]
    return winograd.weight_strides(weight.stride(), out <= THIN < into)  # `thin_out`


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y of dense sources and its batch mean and variance, the activation read on the fly; a thin y has none."""
    x, channels = sources[0].x, weight.shape[0]
    shape_out = winograd.output_shape(x.shape, weight.shape, geometry)
    y = buffer_pool.empty(shape_out, x.dtype, native.memory_format(x.dim()))
    weight, bias = weight.float(), None if bias is None else bias.float().contiguous()
    dtype = native.DTYPES[x.dtype]
    into = torch.Size((x.shape[0], weight.shape[1], *x.shape[2:]))
    shape = shape_of(into, shape_out, weight.shape, geometry, thin_out(weight))
    common = (
        ctypes.byref(shape), native.c_sources(sources), len(sources), weight.data_ptr(), strides(weight),
        address(bias), y.data_ptr(),
    )  # fmt: skip
    if shape.thin_out:
        native.library().fi_cpu_narrow(*common, dtype, torch.get_num_threads())
        return y, None, None
    mean, var = (torch.empty(channels), torch.empty(channels)) if stats else (None, None)
    native.library().fi_cpu_widen_fwd(*common, address(mean), address(var), dtype, torch.get_num_threads())
    return y, mean, var


def dgrad(
    g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry, needs: Sequence[bool]
) -> list[SourceGrad]:
    """The gradients of dense sources from G, itself given as one."""
    shape = _backward_shape(g, sources, weight, geometry)
    common, dtype = (ctypes.byref(shape), native.c_sources([g])), native.DTYPES[g.x.dtype]
    weight = weight.float()
    if not shape.thin_out:
        da = native.empty(sources[0].x, weight.shape[1])
        native.library().fi_cpu_narrow(
            *common, 1, weight.data_ptr(), strides(weight), None, da.data_ptr(), dtype, torch.get_num_threads()
        )
        return activation.consume(da, sources, needs)
    grads, addresses = native.empty_grads(sources, needs)
    native.library().fi_cpu_widen_dgrad(
        *common, weight.data_ptr(), strides(weight), native.c_sources(sources), len(sources),
        addresses, dtype, torch.get_num_threads(),
    )  # fmt: skip
    return grads


def wgrad(g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> Tensor:
    """dweight, in the layout of the weight; G and the sources are dense."""
    dweight = torch.empty_like(weight, dtype=torch.float32)
    shape = _backward_shape(g, sources, weight, geometry)
    wide, thin = (sources, [g]) if shape.thin_out else ([g], sources)
    native.library().fi_cpu_thin_wgrad(
        ctypes.byref(shape), native.c_sources(wide), len(wide), native.c_sources(thin), len(thin),
        dweight.data_ptr(), strides(dweight), native.DTYPES[g.x.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return dweight.to(weight.dtype)


def _backward_shape(g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> ThinShape:
    x = sources[0].x.shape
    into = torch.Size((x[0], weight.shape[1], *x[2:]))
    return shape_of(into, g.x.shape, weight.shape, geometry, weight.shape[0] <= THIN < weight.shape[1])  # `thin_out`
