"""`conv_block` on the CPU, channels-last: own kernels, or oneDNN's convolution between own elementwise ones.

Contract: reference.py. Each pass takes the faster of the two, by the rule of `select`; `onednn` is the latter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import cpu as activation
from fastinpaint.ops.batch_norm import cpu as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Normed
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block.cpu import onednn, passes, select
from fastinpaint.ops.conv_block.cpu.live_taps import trimmed, widened
from fastinpaint.ops.conv_block.cpu.select import settings  # noqa: F401 - what `normalises` depends on besides
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.dispatch.fast_path import can_bypass_dispatcher
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = True
LEAST_PLAIN = 1 << 17  # values: a pass of its own, which saves moving a map, takes as long in Python as these in memory
KEEPS_WEIGHT_LAYOUT = True  # dweight comes in the weight's
NO_GRAD = SourceGrad()
NORM_NEEDS_BYPASS = True  # `fwd_norm` gives what no registered operator can hand on
FRESH_GRADIENTS = True  # none shares memory with another one or with dy


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why this convolution cannot run here, in one sentence, or None."""
    return native.why_not(weight, *[t for s in sources for t in (s.x, s.addend)])


def prepare(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> passes.Passes | None:
    """This module for such a convolution alone, with less to do in a call; None where it takes the whole of it."""
    if not can_bypass_dispatcher(weight, *[s.x for s in sources]):  # a tracer's sizes are symbols
        return None
    if trimmed(sources, weight, geometry)[2] is not None:
        return None
    kernels = select.select_kernels(sources, weight, geometry)
    return passes.prepare(sys.modules[__name__], kernels, sources, weight, geometry)


def normalises(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether some pass has a kernel that normalises on load. Otherwise all passes get a plain map."""
    weight, geometry, _ = trimmed(sources, weight, geometry)
    return select.select_kernels(sources, weight, geometry) != (None, None, None)


def loads_activations(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether every pass has a kernel that computes any activation in its load, and its derivative."""
    weight, geometry, _ = trimmed(sources, weight, geometry)
    return select.DIRECT_KERNELS.issuperset(select.select_kernels(sources, weight, geometry))


def has_curve(sources: Sequence[Source]) -> bool:
    """Whether an activation other than ReLU is among them."""
    most = 0
    for source in sources:  # a generator would cost a call each
        most = max(most, source.relu)
    return most > 1


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; batch mean and biased variance ``[C_out]`` where asked for."""
    mean = var = None
    sources = list(map(native.dense_source, sources))
    weight, geometry, _ = trimmed(sources, weight, geometry)
    kernels, _, _ = select.select_kernels(sources, weight, geometry)
    if kernels not in select.DIRECT_KERNELS and has_curve(sources):
        return reference.fwd(sources, weight, bias, geometry, stats)
    if kernels is not None:
        y, mean, var = kernels.fwd(sources, weight, bias, geometry, stats)
    else:
        y = onednn.convolution(activation.materialise(sources), weight, bias, geometry)
    return (y, *batch_stats(y)) if stats and mean is None else (y, mean, var)


def why_not_norm(sources: Sequence[Source], norm: Norm) -> str | None:
    """Why `fwd_norm` cannot finish this batch norm, in one sentence, or None."""
    return batch_norm.why_not_after(sources[0].x, norm)


def fwd_norm(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, norm: Norm
) -> tuple[Tensor, Normed]:
    """y as `fwd`'s, of maps that are not empty, and what the batch norm that follows makes of its statistics."""
    mean = var = None
    sources = list(map(native.dense_source, sources))
    weight, geometry, _ = trimmed(sources, weight, geometry)
    kernels, _, _ = select.select_kernels(sources, weight, geometry)
    if kernels not in select.DIRECT_KERNELS and has_curve(sources):
        y = native.dense(reference.fwd(sources, weight, bias, geometry, False)[0])
    elif kernels is not None:
        y, mean, var = kernels.fwd(sources, weight, bias, geometry, True)
    else:
        y = onednn.convolution(activation.materialise(sources), weight, bias, geometry)
    if mean is None or var is None:
        mean, var = batch_stats(y)
    return y, batch_norm.finish(mean, var, norm, y.numel() // y.shape[1])


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in the wide dtype: blocks of pixels merged by Chan's formula."""
    values, channels, dtype = y.numel(), y.shape[1], y.dtype
    if values == 0:
        return reference.batch_stats(y)
    y = native.dense(y)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = torch.empty(channels, dtype=wide), torch.empty(channels, dtype=wide)
    native.library().fi_cpu_batch_stats(
        y.data_ptr(), values // channels, channels, mean.data_ptr(), var.data_ptr(), native.DTYPES[dtype],
        torch.get_num_threads(),
    )  # fmt: skip
    return mean, var


def upstream(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Source:
    """G, the gradient that reaches y, as a source: (y - mean) * scale + shift + dy."""
    if mean is None or dmean is None or dvar is None:
        return Source(dy)
    count = max(1, native.pixels(y))
    return Source(y, mean, dvar * (2 / count), dmean * (1 / count), False, dy)


def stats_bwd(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Tensor:
    """G: the gradient that reaches y through itself and through its statistics."""
    return activation.materialise([native.dense_source(upstream(dy, dmean, dvar, y, mean))])


def bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor,
    mean: Tensor | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients of every source, of the weight and of the bias; y and mean are what `fwd` returned."""
    if has_curve(sources) and not loads_activations(sources, weight, geometry):
        return reference.bwd(dy, dmean, dvar, y, mean, sources, weight, geometry, needs, needs_weight, needs_bias)
    g = native.dense_source(upstream(dy, dmean, dvar, y, mean))
    grads, dweight = _bwd_from(g, sources, weight, geometry, needs, needs_weight)
    return grads, dweight, bias_grad(dy, dmean, weight) if needs_bias else None


def bwd_norm(
    dy: Tensor,
    dmean: Tensor | None,
    dscale: Tensor | None,
    y: Tensor,
    normed: Normed,
    norm_weight: Tensor | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
    """As `bwd`, given the gradient of the scale in place of dvar; also the gradient of norm_weight, None if that is."""
    source, dnorm_weight = batch_norm.upstream(dy, dmean, dscale, y, normed, norm_weight)
    g = native.dense_source(source)
    grads, dweight = _bwd_from(g, sources, weight, geometry, needs, needs_weight)
    return grads, dweight, bias_grad(dy, dmean, weight) if needs_bias else None, dnorm_weight


def _bwd_from(
    g: Source,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
) -> tuple[list[SourceGrad], Tensor | None]:
    """The gradients of every source and of the weight from G, itself given as a source."""
    sources, whole = list(map(native.dense_source, sources)), weight
    weight, geometry, live = trimmed(sources, weight, geometry)
    grads: list[SourceGrad] = [NO_GRAD] * len(sources)
    dweight, needs_input = None, any(needs)
    kernels = select.select_kernels(sources, weight, geometry)
    _, own_dgrad, own_wgrad = kernels
    own_wgrad = select.exact_enough(own_wgrad, g, sources)
    if has_curve(sources) and not all(k in select.DIRECT_KERNELS for k in kernels):
        upstreams = (activation.materialise([g]), None, None, None, None)
        grads, dweight, _ = reference.bwd(*upstreams, sources, weight, geometry, needs, needs_weight, False)
        return grads, widened(dweight, whole, live)
    if needs_input and needs_weight and own_dgrad is own_wgrad and own_dgrad in select.DIRECT_KERNELS:
        grads, dweight = own_dgrad.bwd(g, sources, weight, geometry, needs)
        return grads, widened(dweight, whole, live)
    if needs_input and own_dgrad is not None:
        grads = own_dgrad.dgrad(g, sources, weight, geometry, needs)
    if needs_weight and own_wgrad is not None:
        dweight = own_wgrad.wgrad(g, sources, weight, geometry)
    mask = [needs_input and own_dgrad is None, needs_weight and own_wgrad is None, False]
    if mask[0] or mask[1]:
        if mask[1]:
            a = activation.materialise(sources)
        else:  # only its shape is read
            a = sources[0].x if len(sources) == 1 else native.empty(sources[0].x, sum(s.x.shape[1] for s in sources))
        da, their_dweight = onednn.convolution_bwd(activation.materialise([g]), a, weight, geometry, mask)
        if their_dweight is not None:
            dweight = onednn.in_layout(their_dweight, weight)
        if da is not None:
            grads = activation.consume(da, sources, needs)
    return grads, widened(dweight, whole, live)


def bias_grad(dy: Tensor, dmean: Tensor | None, like: Tensor) -> Tensor:
    """sum G = sum dy + dmean: what reaches y through its variance sums to zero."""
    sums = activation.channel_sums(dy)
    return (sums if dmean is None or dy.numel() == 0 else sums + dmean).to(like.dtype)
