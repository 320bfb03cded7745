"""Backward of `conv_block` in Triton for one or two sources: dgrad, wgrad, and one launch that finishes their sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.activation.triton_launch import NUM_WARPS, row_tiles
from fastinpaint.ops.conv_block.triton import activate_first, ahead, autotune, boxes, tiles, two_stages
from fastinpaint.ops.conv_block.triton.finish import NormWeight, finish
from fastinpaint.ops.conv_block.triton.host import (
    densely,
    gather_arguments,
    gather_parts,
    lanes,
    prologue,
    weight_strides,
)
from fastinpaint.ops.conv_block.triton.prepared import Memory, Prepared, kept, remembered
from fastinpaint.ops.conv_block.triton.prepared import prepare as prepare_launch
from fastinpaint.ops.conv_block.triton.taps import Problem, gathers, problem
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.types import Geometry, Source, SourceGrad, maker

if support.INSTALLED:
    from fastinpaint.ops.conv_block.triton import dgrad_kernel, finish_kernel, wgrad_kernel


NO_GRAD = SourceGrad()
Maps = tuple[Tensor, Tensor | None]  # uninitialised gradients of a source's map and of its addend


class Gradient(NamedTuple):
    """dy, dense channels-last, and what turns it into G; the others are None without statistics.

    With a curve, dvar holds the gradient of the scale that batch norm made of var, and its product with the curve is
    the gradient of var.
    """

    dy: Tensor
    y: Tensor | None = None
    mean: Tensor | None = None
    dmean: Tensor | None = None
    dvar: Tensor | None = None
    dvar_per_dscale: Tensor | None = None

    @property
    def inverse_count(self) -> float:
        return self.dy.shape[1] / self.dy.numel()

    def written(self) -> Gradient:
        """G as a plain gradient, so that what reads it computes nothing more."""
        if self.y is None or self.mean is None or self.dmean is None or self.dvar is None:
            return self
        dense = activate_first.written_gradient(self.dy, self.y, self.mean, self.dmean, self.dvar, self.dvar_per_dscale)
        return Gradient(dense)

    def flags(self) -> dict[str, bool]:
        """Compile-time flags of the kernels."""
        return {"HAS_STATS": self.y is not None, "HAS_NORM": self.dvar_per_dscale is not None}


gradient_of = maker(Gradient)


def bwd_two(
    grad: Gradient,
    norm: NormWeight | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
    memory: Memory | None = None,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
    """As `triton.bwd_norm`, for at most two sources."""
    dy, dense = grad.dy, [densely(source) for source in sources]
    if not dy.numel() or not dense[0].x.numel():
        return *empty_backward(grad, dense, weight, needs, needs_weight, needs_bias), None
    conv, written, steps = pass_steps(grad, norm, dense, weight, geometry, (*needs, needs_weight, needs_bias), memory)
    wanted = dense if False not in needs else [source for source, needed in zip(dense, needs, strict=True) if needed]
    partial = bias_sums = sums = None
    with support.on_device_of(dy):
        if needs_weight and written:
            bias_sums = gradient_sums(grad) if needs_bias else None
            grad = grad.written()
            partial = boxes.partial_sums(activate_first.activated(dense), grad.dy, conv, steps)
        elif needs_weight:
            wgrad = remembered(steps, "wgrad", wgrad_kernel.conv_wgrad_kernel)
            if wgrad is None:
                wgrad = kept(steps, "wgrad", *_prepare_wgrad(grad, dense, weight, conv, needs_bias))
            partial, bias_sums = _run_wgrad(wgrad, grad, dense)
        elif needs_bias:
            bias_sums = gradient_sums(grad)
        maps = []
        for source in wanted:
            dx = torch.empty_like(source.x)
            maps.append((dx, None if source.addend is None else torch.empty_like(dx)))
        if wanted:
            packed = _packed(weight, conv.transposed, 0 if needs[0] else dense[0].x.shape[1])
            dgrad = remembered(steps, "dgrad", dgrad_kernel.conv_dgrad_kernel)
            if dgrad is None:
                dgrad = kept(steps, "dgrad", *_prepare_dgrad(grad, wanted, maps, packed, weight, conv))
            sums = _run_dgrad(dgrad, grad, wanted, maps, packed)
        grads, *of_weights = finish(wanted, maps, sums, partial, bias_sums, norm, weight, conv.transposed, steps)
    if len(wanted) < len(dense):
        waiting = iter(grads)
        grads = [next(waiting) if needed else NO_GRAD for needed in needs]
    return grads, *of_weights  # type: ignore[return-value]


def float_items(grad: Gradient, items: int) -> Tensor:
    """An empty float32 vector. torch makes it in less time beside another one."""
    if grad.mean is None:
        return torch.empty(items, dtype=torch.float32, device=grad.dy.device)
    return grad.mean.new_empty(items)


def pass_steps(
    grad: Gradient,
    norm: NormWeight | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: tuple[bool, ...],
    memory: Memory | None,
) -> tuple[Problem, bool, Memory]:
    """The problem, whether its maps are written out first, and the launches of earlier such calls."""
    tf32 = weight.dtype == torch.float32 and tf32_convolutions()
    key = ("bwd", *needs, grad.y is None, grad.dvar_per_dscale is None, norm is None, tf32)
    found = None if memory is None or ahead._collected is not None else memory.get(key)
    if found is None:
        conv = problem(tuple(sources[0].x.shape), tuple(grad.dy.shape), tuple(weight.shape[2:]), geometry)
        found = conv, activate_first.suits(weight, conv), {}
        if memory is not None and ahead._collected is None:
            memory[key] = found
    return found


def _packed(weight: Tensor, transposed: bool, skipped: int) -> Tensor:
    """The weight that dgrad reads, dense channels-last, from the channels after the first ``skipped`` on."""
    packed = layout.dense(weight)
    if skipped:  # a view of its memory that starts at the first needed channel
        before = skipped * weight_strides(packed, transposed)[2]
        packed = torch.as_strided(packed, (packed.numel() - before,), (1,), packed.storage_offset() + before)
    return packed


def _run_dgrad(
    found: Prepared, grad: Gradient, sources: Sequence[Source], maps: Sequence[Maps], packed: Tensor
) -> Tensor | None:
    """Launch dgrad into the gradients; returns ``2 * sum C_i * P`` partial sums for the vectors' gradients."""
    sums = float_items(grad, math.prod(found.sizes)) if found.sizes else None
    found.launch(*grad, packed, *sources[0][:4], *maps[0], *sources[-1][:4], *maps[-1], sums, None)
    return sums


def _prepare_dgrad(
    grad: Gradient,
    sources: Sequence[Source],
    maps: Sequence[Maps],
    packed: Tensor,
    weight: Tensor,
    conv: Problem,
) -> tuple[Prepared, bool]:
    """Dgrad's launch, and whether it will be the same from now on."""
    first, second = sources[0], sources[-1]
    channels = (first.x.shape[1],) if first is second else (first.x.shape[1], second.x.shape[1])
    out_channels = grad.dy.shape[1]
    _, gather, _, phases = gathers(conv)
    _, w_tap, w_in, w_out = weight_strides(weight, conv.transposed)
    written = grad.y is None and activate_first.suits(weight, conv)
    work = tiles.Work(
        rows=first.x.numel() // (channels[0] * phases),
        columns=max(channels),
        depth=out_channels * weight.shape[2:].numel() // phases,
        operands=(1 if grad.y is None else 2, 1),
        itemsize=first.x.element_size(),
        products=phases * len(sources),
        prologue=(0 if grad.y is None else tiles.GRADIENT, 0),
        gather=None if written or tiles.packing(out_channels) else gather,
        splits_sums=written,
        live=tiles.live_share_of(gather) if written else 1.0,
    )
    any_affine = first.mean is not None or second.mean is not None
    flags, exact = {**grad.flags(), **activation.flags(sources)}, not tf32_convolutions()

    def describe(tile: tiles.Tile) -> tuple[int, dict[str, Any]]:
        pack, even = lanes(out_channels, tile)
        blocks = -(-channels[0] // tile.n) + (-(-channels[1] // tile.n) if len(channels) > 1 else 0)
        numbers = {
            "inverse_count": grad.inverse_count, "out_channels": out_channels, "channels0": channels[0],
            "channels1": channels[-1], "w_tap": w_tap, "w_k": w_out, "w_n": w_in, **flags, "PACK": pack,
            "EVEN_K": even, **gather_arguments(gather, conv.samples, tile, exact),
        }  # fmt: skip
        return gather_parts(gather, conv.samples, tile) * blocks, numbers

    def launch(tile: tiles.Tile) -> Prepared:
        parts = gather_parts(gather, conv.samples, tile)
        sizes, shape = (2, sum(channels), parts) if any_affine else (), (parts * tile.m, sum(channels))
        return two_stages.prepare(dgrad_kernel.conv_dgrad_kernel, tile, work, describe, shape, sizes, False)

    def result(tile: tiles.Tile) -> list[Tensor]:
        of_tile = launch(tile)
        sums = _run_dgrad(of_tile, grad, sources, maps, packed)
        found = [t for both in maps for t in both if t is not None]
        return found if sums is None else [*found, sums.view(of_tile.sizes).sum(2)]

    every = tiles.GATHER_TILES if grad.y is not None else tiles.WRITTEN_TILES
    shape = (conv, out_channels, channels, any_affine, first.x.dtype)
    found = launch(autotune.choose("dgrad", every, work, shape, result))
    return found, autotune.is_chosen("dgrad", work, shape)


def _run_wgrad(found: Prepared, grad: Gradient, sources: Sequence[Source]) -> tuple[Tensor, Tensor | None]:
    """Launch wgrad; returns ``S * taps * C * C_out`` partial sums of dweight, and dbias's partial sums."""
    x0, mean0, scale0, shift0, _, addend0 = sources[0]
    x1, mean1, scale1, shift1, _, addend1 = sources[-1]
    shape, of_bias = found.sizes
    partial = float_items(grad, math.prod(shape))  # flat: torch takes longer for four sizes
    bias_sums = None if of_bias is None else support.float_empty(x0, *of_bias)
    found.launch(x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, *grad, partial, bias_sums)
    return partial, bias_sums


def _prepare_wgrad(
    grad: Gradient, sources: Sequence[Source], weight: Tensor, conv: Problem, needs_bias: bool
) -> tuple[Prepared, bool]:
    """Wgrad's launch, and whether it will be the same from now on."""
    first, second = sources[0], sources[-1]
    channels = (first.x.shape[1],) if first is second else (first.x.shape[1], second.x.shape[1])
    out_channels = grad.dy.shape[1]
    # a transposed convolution's taps shift G, not the source, so they cannot share a step
    packs = [0] * len(channels) if conv.transposed else list(map(tiles.packing, channels))
    taps = weight.shape[2:].numel()
    rows_of_taps, blocks_of = [], []
    for pack, c in zip(packs, channels, strict=True):
        rows_of_taps.append(taps * pack if pack else c)
        blocks_of.append((taps * pack, 1) if pack else (c, taps))
    added = first.addend is not None or second.addend is not None
    work = tiles.Work(
        rows=max(rows_of_taps),
        columns=out_channels,
        depth=conv.samples * conv.small[0] * conv.small[1] * conv.small[2],
        operands=(1 + added, 1 if grad.y is None else 2),
        itemsize=weight.element_size(),
        splits_depth=True,
        products=sum([1 if pack else taps for pack in packs]),
        prologue=(prologue(sources), 0 if grad.y is None else tiles.GRADIENT),
    )
    gradient_rows = activation.rows_of(grad.dy)
    rows = row_tiles(gradient_rows, out_channels)
    bias_programs = rows.programs * rows.channel_blocks if needs_bias else 0
    flags, exact = {**activation.flags(sources), **grad.flags()}, not tf32_convolutions()

    def launch(tile: tiles.Tile) -> Prepared:
        splits = min(tiles.splits(tile, work), (tiles.OFFSETS - 1) // (taps * sum(channels) * out_channels))
        bt, bh, bw = tiles.block_shape(tile.k, conv.small)
        blocks = 0
        for size, times in blocks_of:
            blocks += times * -(-size // tile.m)
        numbers = {
            "samples": conv.samples, "small": conv.small, "large": conv.large, "padding": conv.padding,
            "dilation": conv.dilation, "inverse_count": grad.inverse_count, "channels0": channels[0],
            "channels1": channels[-1], "out_channels": out_channels, "splits": splits, "bias_parts": rows.programs,
            "rows": gradient_rows, "rows_per_program": rows.rows_per_program, **flags, "HAS_BIAS": needs_bias,
            "TRANSPOSED": conv.transposed, "STRIDE": conv.stride, "TAPS": conv.taps, "BT": bt, "BH": bh, "BW": bw,
            "BLOCK_M": tile.m, "BLOCK_N": tile.n, "PACK0": packs[0], "PACK1": packs[-1], "BIAS_R": rows.block_r,
            "BIAS_C": rows.block_c, "PRECISION": "ieee" if exact else "tf32", "num_warps": tile.num_warps,
            "num_stages": tile.num_stages, **support.OPTIONS,
        }  # fmt: skip
        grid = (splits * blocks * -(-out_channels // tile.n) + bias_programs,)
        of_bias = (out_channels, rows.programs) if needs_bias else None
        sizes = ((splits, taps, sum(channels), out_channels), of_bias)
        return prepare_launch(wgrad_kernel.conv_wgrad_kernel, grid, numbers, sizes)

    def result(tile: tiles.Tile) -> list[Tensor]:
        of_tile = launch(tile)
        partial, bias_sums = _run_wgrad(of_tile, grad, sources)
        return [partial.view(of_tile.sizes[0]).sum(0), *([] if bias_sums is None else [bias_sums.sum(1)])]

    shape = (conv, channels, out_channels, any(s.mean is not None for s in sources), weight.dtype)
    found = launch(autotune.choose("wgrad", tiles.WGRAD_TILES, work, shape, result))
    return found, autotune.is_chosen("wgrad", work, shape)


def gradient_sums(grad: Gradient) -> Tensor:
    """Partial sums ``[C_out, P]`` of G for dbias, when no wgrad computes them."""
    rows, channels = activation.rows_of(grad.dy), grad.dy.shape[1]
    blocks = row_tiles(rows, channels)
    partial = support.float_empty(grad.dy, channels, blocks.programs)
    finish_kernel.gradient_sums_kernel[(blocks.programs, blocks.channel_blocks)](
        *grad, partial, grad.inverse_count, rows, channels, blocks.rows_per_program,
        **grad.flags(), BLOCK_R=blocks.block_r, BLOCK_C=blocks.block_c, num_warps=NUM_WARPS, **support.OPTIONS,
    )  # fmt: skip
    return partial


def empty_backward(
    grad: Gradient,
    sources: Sequence[Source],
    weight: Tensor,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients for an empty input or output: zeros, except for the bias, which still depends on G."""
    grads = []
    for source, needed in zip(sources, needs, strict=True):
        given = (source.x, source.mean, source.scale, source.shift, source.addend)
        grads.append(SourceGrad(*(torch.zeros_like(v) if needed and v is not None else None for v in given)))
    dbias = None
    if needs_bias:
        dbias = weight.new_zeros(grad.dy.shape[1])
        if grad.dy.numel():
            _, _, dbias, _ = finish([], [], None, None, gradient_sums(grad), None, weight, False, {})
    return grads, torch.zeros_like(weight, memory_format=torch.contiguous_format) if needs_weight else None, dbias
