"""The convolutions that the own kernels of csrc/conv_block/cpu/matmul.h compute: any channels, as matrix products."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.conv_block.cpu import direct, winograd
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad, address


def fits(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels can compute this convolution and both its gradients."""
    return geometry.groups == 1 and direct.fits(sources, weight, geometry)


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y of dense sources and its batch mean and variance, the activation read on the fly."""
    x, channels = sources[0].x, weight.shape[0]
    shape_out = winograd.output_shape(x.shape, weight.shape, geometry)
    y = buffer_pool.empty(shape_out, torch.float32, native.memory_format(x.dim()))
    mean, var = (torch.empty(channels), torch.empty(channels)) if stats else (None, None)
    bias = None if bias is None else bias.contiguous()
    shape = direct.shape_of(x.shape, shape_out, weight.shape, geometry)
    native.library().fi_cpu_matmul_fwd(
        ctypes.byref(shape), native.c_sources(sources), len(sources), weight.data_ptr(),
        winograd.strides(weight, geometry, backward=False), address(bias), y.data_ptr(), address(mean), address(var),
        torch.get_num_threads(),
    )  # fmt: skip
    return y, mean, var


def dgrad(
    g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry, needs: Sequence[bool]
) -> list[SourceGrad]:
    """The gradients of dense sources from G, itself given as one; the activation's backward is the epilogue."""
    grads, addresses = native.empty_grads(sources, needs)
    shape = direct.shape_of(sources[0].x.shape, g.x.shape, weight.shape, geometry)
    native.library().fi_cpu_matmul_dgrad(
        ctypes.byref(shape), native.c_sources([g]), weight.data_ptr(),
        winograd.strides(weight, geometry, backward=True), native.c_sources(sources), len(sources),
        addresses, torch.get_num_threads(),
    )  # fmt: skip
    return grads


def wgrad(g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> Tensor:
    """dweight, in the layout of the weight; G and the sources are dense."""
    dweight = torch.empty_like(weight)
    shape = direct.shape_of(sources[0].x.shape, g.x.shape, weight.shape, geometry)
    native.library().fi_cpu_matmul_wgrad(
        ctypes.byref(shape), native.c_sources(sources), len(sources), native.c_sources([g]), dweight.data_ptr(),
        winograd.strides(dweight, geometry, backward=False), torch.get_num_threads(),
    )  # fmt: skip
    return dweight


def bwd(
    g: Source, sources: Sequence[Source], weight: Tensor, geometry: Geometry, needs: Sequence[bool]
) -> tuple[list[SourceGrad], Tensor]:
    """What `dgrad` and `wgrad` give, where that is faster in one pass over the maps."""
    dweight = torch.empty_like(weight)
    grads, addresses = native.empty_grads(sources, needs)
    shape = direct.shape_of(sources[0].x.shape, g.x.shape, weight.shape, geometry)
    native.library().fi_cpu_matmul_bwd(
        ctypes.byref(shape), native.c_sources([g]), weight.data_ptr(),
        winograd.strides(weight, geometry, backward=True), native.c_sources(sources), len(sources),
        addresses, dweight.data_ptr(), winograd.strides(dweight, geometry, backward=False),
        torch.get_num_threads(),
    )  # fmt: skip
    return grads, dweight
