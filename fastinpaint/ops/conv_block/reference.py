"""`conv_block` in plain torch: any device, any dtype, float64 too. The oracle of every other backend.

    y = conv(a, weight) + bias,   a = activation(sources)  (see `fastinpaint.ops.activation.reference`)
    mean_c = sum y / M,   var_c = sum (y - mean_c)^2 / M,   M = N * T * H * W of y

and, given dy, dmean and dvar:

    G = dy + dmean / M + 2 dvar (y - mean) / M
    dweight = corr(a, G)     dbias = sum G     da = conv_transposed(G, weight)     then activation's backward
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import reference as activation
from fastinpaint.ops.activation.reference import channel_dims, normalised, per_channel, wide
from fastinpaint.ops.conv_block import zero_padding
from fastinpaint.ops.norm_act.reference import act_bwd, act_fwd
from fastinpaint.ops.norm_act.types import act_of
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = False


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """The reference takes everything."""
    return None


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; batch mean and biased variance ``[C_out]`` where asked for.

    A weight of another dtype is rounded to the sources', as autocast does.
    """
    a = activated(sources)
    y = zero_padding.convolution(a, weight.to(a.dtype), None if bias is None else bias.to(a.dtype), geometry)
    if not stats:
        return y, None, None
    mean, var = batch_stats(y)
    return y, mean, var


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in the wide dtype."""
    var, mean = torch.var_mean(wide(y), channel_dims(y), correction=0)
    return mean, var


def stats_bwd(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor | None, mean: Tensor | None) -> Tensor:
    """G: the gradient that reaches y through itself and through its statistics."""
    if y is None or mean is None or dmean is None or dvar is None:
        return dy
    count = y.numel() // y.shape[1]
    g = wide(dy) + per_channel(dmean / count, y) + per_channel(2 * dvar / count, y) * (wide(y) - per_channel(mean, y))
    return g.to(y.dtype)


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
    """The gradients of every source, of the weight and of the bias; y and mean are what `fwd` returned."""
    g = stats_bwd(dy, dmean, dvar, y, mean)
    da, dweight = _convolution_bwd(g, activated(sources), weight.to(g.dtype), geometry, any(needs), needs_weight)
    dweight = None if dweight is None else dweight.to(weight.dtype)
    dbias = wide(g).sum(channel_dims(g)).to(weight.dtype) if needs_bias else None
    grads = [SourceGrad() for _ in sources] if da is None else activated_bwd(da, sources, needs)
    return grads, dweight, dbias


def activated(sources: Sequence[Source]) -> Tensor:
    """`activation.fwd`, and of sources with another activation than ReLU."""
    return activation.fwd([source if source.relu <= 1 else _plain(source) for source in sources])


def _plain(source: Source) -> Source:
    a = act_fwd(act_of(source.relu), normalised(source))
    return Source(a.to(source.x.dtype), addend=source.addend)


def activated_bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """`activation.bwd`, and of sources with another activation than ReLU."""
    if all(source.relu <= 1 for source in sources):
        return activation.bwd(da, sources, needs)
    grads = []
    for part, source, needed in zip(da.split([s.x.shape[1] for s in sources], 1), sources, needs, strict=True):
        given, upstream = source, part
        if needed and source.relu > 1:
            given = source._replace(relu=False, addend=None)
            upstream = act_bwd(act_of(source.relu), wide(part), normalised(source)).to(part.dtype)
        (grad,) = activation.bwd(upstream, [given], [needed])
        grads.append(grad if given is source or source.addend is None else grad._replace(addend=part))
    return grads


def _convolution_bwd(
    g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, needs_input: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """da and dweight of a plain convolution."""
    if needs_weight and unwritten(g):
        da, dweight = _convolution_bwd(g.float(), a.float(), weight.float(), geometry, needs_input, True)
        return None if da is None else da.to(g.dtype), None if dweight is None else dweight.to(g.dtype)
    backward = zero_padding.convolution_backward
    if needs_weight and zero_padding.overruns(weight, geometry):
        backward = zero_padding.strided_backward
    return backward(g, a, weight, geometry, [needs_input, needs_weight, False])


def unwritten(g: Tensor) -> bool:
    """Whether oneDNN may leave parts of dweight unwritten: in bfloat16 on the CPU, seen in torch 2.13.

    In 2D these are taps that meet nothing but padding, in 3D any.
    """
    return g.dtype == torch.bfloat16 and g.device.type == "cpu"
