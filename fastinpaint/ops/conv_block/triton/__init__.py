"""`conv_block` in Triton. `reference` holds the contract.

Forward is one launch, plus a small one that finishes the statistics. Backward is a dgrad and a wgrad launch, plus a
small one that finishes their sums. A following batch norm needs no launch of its own: forward's small launch applies
it, and backward's launches include it. Three or more sources are first written out by `activation`. `groups` has the
grouped convolutions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.batch_norm import triton as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Normed
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.conv_block.triton import activate_first, autotune, groups, tiles, two_stages
from fastinpaint.ops.conv_block.triton.backward import Gradient, bwd_two, gradient_of
from fastinpaint.ops.conv_block.triton.finish import NormWeight, norm_weight_of
from fastinpaint.ops.conv_block.triton.host import (
    densely,
    gather_arguments,
    gather_parts,
    lanes,
    prologue,
    weight_strides,
)
from fastinpaint.ops.conv_block.triton.prepared import Memory, Prepared, remembered
from fastinpaint.ops.conv_block.triton.taps import gathers, problem
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.types import Geometry, Source, SourceGrad

if support.INSTALLED:
    from fastinpaint.ops.conv_block.triton import fwd_kernel, groups_kernel

CHANNELS_LAST = True

batch_stats = activation.batch_stats


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why this convolution cannot run here, in one sentence, or None."""
    if geometry.groups != 1 and (reason := groups.why_not(weight, geometry)) is not None:
        return reason
    if weight.dtype != sources[0].x.dtype:
        return f"conv_block: the Triton kernels take a weight of the sources' {sources[0].x.dtype}, got {weight.dtype}."
    if (reason := _why_not_sizes(sources, weight, geometry)) is not None:
        return reason
    return support.why_not("conv_block", [s.x for s in sources])


def _why_not_sizes(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    x, channels = sources[0].x.shape, sum(int(s.x.shape[1]) for s in sources)
    if len(x) not in (4, 5) or 0 in x:
        return None
    return _why_not_shapes((*map(int, x),), channels, (*map(int, weight.shape),), geometry)


@functools.lru_cache(maxsize=1024)
def _why_not_shapes(x: tuple[int, ...], channels: int, weight: tuple[int, ...], geometry: Geometry) -> str | None:
    y = output_shape(x, weight, geometry)
    return None if 0 in y or min(y) < 0 else tiles.why_not_offsets(problem(x, y, weight[2:], geometry), channels, y[1])


def prepare(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> SimpleNamespace:
    """The functions of this module for such sources, with a memory of their launches."""
    memory: Memory = {}
    passes = {function.__name__: functools.partial(function, memory=memory) for function in (fwd, bwd)}
    # of one or two sources no gradient shares memory with another; nothing calls what autograd or autocast would change
    fresh = len(sources) <= most_sources(geometry)
    found = SimpleNamespace(CHANNELS_LAST=True, FRESH_GRADIENTS=fresh, UNGUARDED=True, bwd_norm=bwd_norm, **passes)
    if fresh:
        backward = backward_of(geometry)
        found.bwd_norm = lambda *call: backward(*_norm_gradient(*call[:6]), *call[6:], memory)
    if all(source.x.numel() for source in sources):
        found.fwd_norm = functools.partial(fwd_norm, memory=memory)
    return found


def most_sources(geometry: Geometry) -> int:
    """Sources that the kernels read. More are written out as one."""
    return 2 if geometry.groups == 1 else 1


def backward_of(geometry: Geometry) -> Callable[..., Any]:
    """Backward of as many sources as the kernels read."""
    return bwd_two if geometry.groups == 1 else groups.bwd


def fwd(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    stats: bool,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]``, dense channels-last; with ``stats`` also its mean and biased variance ``[C_out]``."""
    dense = _few(sources, geometry)
    first = dense[0].x
    y = _uninitialised(first, weight, geometry, memory)
    if not y.numel():
        return y, *(activation.batch_stats(y) if stats else (None, None))
    with support.on_device_of(first):
        if not first.numel():
            y.zero_()
            if bias is not None:
                y += bias.view(-1, *[1] * (y.dim() - 2))
            return y, *(activation.batch_stats(y) if stats else (None, None))
        found = _found(dense, weight, bias, geometry, y, stats, memory)
        if found.written:
            dense = [Source(activate_first.activated(dense))]
        measured = _run(found, dense, layout.dense(weight), bias, y, stats)
        return (y, *activation.finish_stats(measured, *found.sizes)) if measured is not None else (y, None, None)


def fwd_norm(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    norm: Norm,
    memory: Memory | None = None,
) -> tuple[Tensor, Normed]:
    """y as in `fwd`, for maps that are not empty, and the following batch norm's results from y's statistics."""
    dense = _few(sources, geometry)
    first = dense[0].x
    y = _uninitialised(first, weight, geometry, memory)
    with support.on_device_of(first):
        found = _found(dense, weight, bias, geometry, y, True, memory)
        if found.written:
            dense = [Source(activate_first.activated(dense))]
        measured = _run(found, dense, layout.dense(weight), bias, y, True)
        assert measured is not None
        channels, parts = found.sizes
        return y, batch_norm.finish(measured, channels, parts, norm, y.numel() // channels)


def _uninitialised(x: Tensor, weight: Tensor, geometry: Geometry, memory: Memory | None) -> Tensor:
    """y before its launch. With known strides torch makes it in half the time."""
    known = None if memory is None else memory.get("y")
    if known is None:
        y = layout.empty(output_shape(x.shape, weight.shape, geometry), x)
        if memory is not None:
            memory["y"] = y.shape, y.stride()
        return y
    return torch.empty_strided(*known, dtype=x.dtype, device=x.device)


def _few(sources: Sequence[Source], geometry: Geometry) -> list[Source]:
    """As many sources as the kernels read, with dense maps."""
    if len(sources) > most_sources(geometry):
        sources = [Source(activation.fwd(sources))]
    return list(map(densely, sources))


def _found(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    y: Tensor,
    stats: bool,
    memory: Memory | None,
) -> Prepared:
    """Forward's launch, from memory if it is there."""
    key = ("fwd", stats, bias is None, y.dtype == torch.float32 and tf32_convolutions())
    kernel = fwd_kernel.conv_fwd_kernel if geometry.groups == 1 else groups_kernel.groups_fwd_kernel
    found = remembered(memory, key, kernel)
    if found is None:
        if geometry.groups == 1:
            found, lasts = _forward(sources, weight, bias, geometry, y, stats)
        else:
            found, lasts = groups.prepare_fwd(sources, weight, bias, geometry, y, stats), True
        if memory is not None and lasts:
            memory[key] = found
    return found


def _run(
    found: Prepared, sources: Sequence[Source], packed: Tensor, bias: Tensor | None, y: Tensor, stats: bool
) -> Tensor | None:
    """Launch forward on dense operands; with ``stats`` return the statistics of its tiles, see `activation`."""
    x0, mean0, scale0, shift0, _, addend0 = sources[0]
    x1, mean1, scale1, shift1, _, addend1 = sources[-1]
    measured = None
    if stats:
        channels, parts = found.sizes
        items = parts * (1 + 2 * channels)
        measured = torch.empty(items, dtype=torch.float32, device=y.device) if mean0 is None else mean0.new_empty(items)
    found.launch(
        x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, packed, bias, y, measured, None
    )
    return measured


def _forward(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, stats: bool
) -> tuple[Prepared, bool]:
    """Forward's launch, and whether it will be the same from now on."""
    conv = problem(tuple(sources[0].x.shape), tuple(y.shape), tuple(weight.shape[2:]), geometry)
    every, written = tiles.GATHER_TILES, activate_first.suits(weight, conv)
    if written:
        every = tiles.WRITTEN_TILES
        sources = [Source(activate_first.activated(sources))]
    first, second = sources[0], sources[-1]
    out_channels = y.shape[1]
    gather, _, phases, _ = gathers(conv)
    packed, w_tap, w_k, w_n = weight_strides(weight, geometry.transposed)
    channels = (first.x.shape[1],) if first is second else (first.x.shape[1], second.x.shape[1])
    added = first.addend is not None or second.addend is not None
    work = tiles.Work(
        rows=y.numel() // (out_channels * phases),
        columns=out_channels,
        depth=sum(channels) * weight.shape[2:].numel() // phases,
        operands=(1 + added, 1),
        itemsize=y.element_size(),
        products=phases,
        prologue=(prologue(sources), 0),
        gather=None if written or any(map(tiles.packing, channels)) else gather,
        splits_sums=written,
        live=tiles.live_share_of(gather) if written else 1.0,
    )
    flags, exact = activation.flags(sources), not tf32_convolutions()

    def describe(tile: tiles.Tile) -> tuple[int, dict[str, Any]]:
        (pack0, even0), (pack1, even1) = lanes(channels[0], tile), lanes(channels[-1], tile)
        numbers = {
            "channels0": channels[0], "channels1": channels[-1], "out_channels": out_channels, "w_tap": w_tap,
            "w_k": w_k, "w_n": w_n, **flags, "HAS_BIAS": bias is not None, "HAS_STATS": stats, "PACK0": pack0,
            "PACK1": pack1, "EVEN_K0": even0, "EVEN_K1": even1, **gather_arguments(gather, conv.samples, tile, exact),
        }  # fmt: skip
        return gather_parts(gather, conv.samples, tile) * -(-out_channels // tile.n), numbers

    def launch(tile: tiles.Tile) -> Prepared:
        parts = gather_parts(gather, conv.samples, tile)
        shape = (parts * tile.m, out_channels)
        return two_stages.prepare(
            fwd_kernel.conv_fwd_kernel, tile, work, describe, shape, (out_channels, parts), written
        )

    def result(tile: tiles.Tile) -> list[Tensor]:
        found = launch(tile)
        measured = _run(found, sources, packed, bias, y, stats)
        return [y, *(() if measured is None else launch_moments(measured, *found.sizes))]

    shape = (conv, channels, stats, y.dtype)
    found = launch(autotune.choose("fwd", every, work, shape, result))
    return found, autotune.is_chosen("fwd", work, shape)


def launch_moments(stats: Tensor, channels: int, parts: int) -> tuple[Tensor, Tensor]:
    """Mean and variance from all tiles' statistics, by torch, to compare those of two tile shapes."""
    count, (mean, m2) = stats[:parts], stats[parts:].view(2, channels, parts)
    total = count.sum()
    merged = (mean * count).sum(1) / total
    return merged, (m2 + count * (mean - merged[:, None]) ** 2).sum(1) / total


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
    memory: Memory | None = None,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients of every source, the weight and the bias. y and mean are `fwd`'s results."""
    grad = Gradient(layout.dense(dy))
    if y is not None and mean is not None and dmean is not None and dvar is not None:
        grad = Gradient(grad.dy, layout.dense(y), mean, dmean, dvar)
    if len(sources) <= most_sources(geometry):
        backward = backward_of(geometry)
        return backward(grad, None, sources, weight, geometry, needs, needs_weight, needs_bias, memory)[:3]
    return _bwd_written(grad, None, sources, weight, geometry, needs, needs_weight, needs_bias)[:3]


def bwd_norm(
    dy: Tensor,
    dmean: Tensor,
    dscale: Tensor,
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
    """As `bwd`, with the scale's gradient in place of dvar. Also returns norm_weight's gradient, None without one."""
    backward = backward_of(geometry) if len(sources) <= most_sources(geometry) else _bwd_written
    grad, norm = _norm_gradient(dy, dmean, dscale, y, normed, norm_weight)
    return backward(grad, norm, sources, weight, geometry, needs, needs_weight, needs_bias)


def _norm_gradient(
    dy: Tensor, dmean: Tensor, dscale: Tensor, y: Tensor, normed: Normed, norm_weight: Tensor | None
) -> tuple[Gradient, NormWeight | None]:
    """G, and what the gradient of norm_weight needs, from the arguments of `bwd_norm`."""
    rstd, axes = normed.rstd, layout.FORMATS[y.dim()]
    assert rstd is not None
    norm = None if norm_weight is None else norm_weight_of((dscale, rstd, norm_weight))
    dy, y = dy.contiguous(memory_format=axes), y.contiguous(memory_format=axes)
    return gradient_of((dy, y, normed.mean, dmean, dscale, normed.dvar_per_dscale)), norm


def _bwd_written(
    grad: Gradient,
    norm: NormWeight | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
    """Backward of more sources than the kernels read, from their activation, which is written again."""
    written = Source(activation.fwd(sources))
    (da,), dweight, dbias, dnorm_weight = backward_of(geometry)(
        grad, norm, [written], weight, geometry, [any(needs)], needs_weight, needs_bias
    )
    grads = [SourceGrad() for _ in sources] if da.x is None else activation.bwd(da.x, sources, needs)
    return grads, dweight, dbias, dnorm_weight
