"""`conv_block` in CUDA C++: activations on load, statistics and activation gradients on store.

`reference` holds the contract. All returned maps are channels-last.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.batch_norm import cuda as batch_norm
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block.cuda.abi import C_GRADIENT, GRADIENT, CConv, describe
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch import native_cuda as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = True
OP = "conv_block"
MOST_TAPS, MOST_PHASES = 128, 27

batch_stats = activation.batch_stats


def norm_module() -> ModuleType:
    """What runs the batch norm that follows, see `fastinpaint.ops.conv_block.fused_bn`."""
    return batch_norm


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why this convolution cannot run here, in one sentence, or None."""
    if geometry.groups != 1:
        return f"the cuda convolution has no groups, got groups={geometry.groups}."
    if len(sources) > 2:
        return f"the cuda convolution concatenates at most 2 sources, got {len(sources)}."
    if math.prod(weight.shape[2:]) > MOST_TAPS:
        return f"the cuda convolution has at most {MOST_TAPS} taps, got a kernel {tuple(weight.shape[2:])}."
    if math.prod(geometry.stride) > MOST_PHASES:
        return f"the cuda convolution's strides multiply to at most {MOST_PHASES}, got stride={geometry.stride}."
    return native.why_not(weight, *(t for s in sources for t in (s.x, s.addend)))


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; with ``stats`` also its mean and biased variance ``[C_out]``."""
    sources = list(map(native.dense_source, sources))
    x = sources[0].x
    shape = output_shape(x.shape, weight.shape, geometry)
    y = layout.empty(shape, x)
    if y.numel() == 0 or not any(s.x.shape[1] for s in sources):
        y, mean, var = reference.fwd(sources, weight, bias, geometry, stats)
        return native.dense(y), mean, var
    mean = native.vector(x, shape[1]) if stats else None
    var = native.vector(x, shape[1]) if stats else None
    bias = None if bias is None else bias.contiguous()
    conv = describe(sources, weight, geometry, shape)
    conv.bias, conv.y, conv.mean, conv.var = map(native.address, (bias, y, mean, var))
    _run("fi_conv_fwd", conv, x, native.library().fi_conv_workspace(ctypes.byref(conv), 0))
    return y, mean, var


def _run(function: str, conv: CConv, like: Tensor, size: int) -> None:
    if size < 0:
        raise NotImplementedError(f"{OP}: {native.STATUS[size]}.")
    space = native.workspace(like, size)
    conv.workspace = space.data_ptr()
    native.call(OP, function, like, ctypes.byref(conv))


def upstream(
    dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor | None, mean: Tensor | None
) -> tuple[Source, float, float]:
    """G, the total gradient of y, as a dense source with the factors of its scale and shift."""
    if mean is None or dmean is None or dvar is None or y is None:
        return Source(native.dense(dy)), 1.0, 1.0
    count = native.positions(y)
    source = native.dense_source(Source(y, mean, dvar, dmean, False, dy))
    return (source, 2.0 / count, 1.0 / count) if count else (Source(source.x), 1.0, 1.0)


def stats_bwd(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Tensor:
    """G, the total gradient of y: dy plus the terms of its statistics."""
    source, scale_factor, shift_factor = upstream(dy, dmean, dvar, y, mean)
    g = native.empty(source.x, source.x.shape[1])
    activation.write(source, g, 0, scale_factor, shift_factor)
    return g


def bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients of every source, the weight and the bias. y and mean are `fwd`'s results."""
    sources = list(map(native.dense_source, sources))
    g, *factors = upstream(dy, dmean, dvar, y, mean)
    grads = list(map(_empty_gradient, sources, needs))
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
    if g.x.numel() == 0 or sources[0].x.numel() == 0:
        for gradient in (t for grad in grads for t in (*grad, dweight) if t is not None):
            gradient.zero_()
    else:
        conv = describe(sources, weight, geometry, g.x.shape)
        conv.gradient = native.c_source(g, *factors)
        for i, grad in enumerate(grads):
            dx, dmean_, dscale, dshift, daddend = map(native.address, grad)
            gradients = (dx or 0, daddend or 0, dmean_ or 0, dscale or 0, dshift or 0)
            C_GRADIENT.pack_into(conv, GRADIENT + i * C_GRADIENT.size, *gradients)
        if any(needs):
            _run("fi_conv_dgrad", conv, g.x, native.library().fi_conv_workspace(ctypes.byref(conv), 1))
        if dweight is not None:
            conv.dweight = dweight.data_ptr()
            _run("fi_conv_wgrad", conv, g.x, native.library().fi_conv_wgrad_workspace(ctypes.byref(conv)))
    dbias = activation.channel_sum(g, *factors).to(weight.dtype) if needs_bias else None
    return grads, dweight, dbias


def _empty_gradient(source: Source, needed: bool) -> SourceGrad:
    if not needed:
        return SourceGrad()
    x, mean = source.x, source.mean
    dmean = dscale = dshift = None
    if mean is not None:
        dmean, dscale, dshift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
    return SourceGrad(
        torch.empty_like(x), dmean, dscale, dshift, None if source.addend is None else torch.empty_like(x)
    )
