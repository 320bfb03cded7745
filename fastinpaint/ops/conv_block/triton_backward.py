"""Backward of `conv_block` in Triton for one or two sources: dgrad and wgrad of each, and the bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops import triton_support as support
from fastinpaint.ops.activation.triton import finish_sums, rows_of
from fastinpaint.ops.activation.triton_launch import FINISH_BLOCK, NUM_WARPS, row_tiles
from fastinpaint.ops.conv_block import triton_launch as launch
from fastinpaint.ops.conv_block import triton_tune as tune
from fastinpaint.ops.conv_block.triton_host import densely, gather_arguments, gather_parts, lanes, weight_strides
from fastinpaint.ops.conv_block.triton_taps import Problem, problem
from fastinpaint.ops.types import Geometry, Source, SourceGrad

if support.INSTALLED:
    from fastinpaint.ops.conv_block import triton_dgrad, triton_wgrad


class Gradient(NamedTuple):
    """dy, dense channels-last, and what turns it into G; the last four are None without statistics."""

    dy: Tensor
    y: Tensor | None
    mean: Tensor | None
    dmean: Tensor | None
    dvar: Tensor | None

    @property
    def inverse_count(self) -> float:
        return self.dy.shape[1] / self.dy.numel()


def bwd_two(
    dy: Tensor,
    stats: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """As `triton.bwd`, of at most two sources; stats are y, mean, dmean and dvar."""
    grad = Gradient(support.channels_last(dy), None, None, None, None)
    if stats is not None:
        y, mean, dmean, dvar = stats
        grad = Gradient(grad.dy, support.channels_last(y), mean, dmean, dvar)
    dense = [densely(s) for s in sources]
    if not dy.numel() or not dense[0].x.numel():
        return _of_nothing(grad, dense, weight, needs, needs_weight, needs_bias)
    it = problem(tuple(dense[0].x.shape), tuple(dy.shape), tuple(weight.shape[2:]), geometry)
    firsts = [0, dense[0].x.shape[1]]
    with support.on_device_of(dy):
        grads = [
            _dgrad(grad, source, first, weight, it) if needed else SourceGrad()
            for source, first, needed in zip(dense, firsts[: len(dense)], needs, strict=True)
        ]
        dweight = _wgrad(grad, dense, weight, it) if needs_weight else None
        dbias = _bias_gradient(grad, weight) if needs_bias else None
    return grads, dweight, dbias


def _dgrad(grad: Gradient, source: Source, first: int, weight: Tensor, it: Problem) -> SourceGrad:
    """The whole backward of one source, whose first channel in the weight is ``first``."""
    x, channels, out_channels = source.x, source.x.shape[1], grad.dy.shape[1]
    gather = it.backward()
    packed, w_tap, w_in, w_out = weight_strides(weight, it.transposed)
    # a view of the weight's memory from the source's first channel on
    packed = torch.as_strided(packed, (packed.numel() - first * w_in,), (1,), packed.storage_offset() + first * w_in)
    work = launch.Work(
        rows=x.numel() // (channels * gather.phase_count),
        columns=channels,
        depth=out_channels * weight[0, 0].numel() // gather.phase_count,
        operands=(1 if grad.y is None else 2, 1),
        itemsize=x.element_size(),
        products=gather.phase_count,
    )
    dx = support.empty_channels_last(x.shape, x)
    daddend = None if source.addend is None else support.empty_channels_last(x.shape, x)

    def run(tile: launch.Tile) -> Tensor | None:
        parts = gather_parts(gather, it.samples, tile)
        partial = None if source.mean is None else support.float_empty(x, 2, channels, parts)
        pack, even = lanes(out_channels, tile)
        triton_dgrad.conv_dgrad_kernel[(parts * -(-channels // tile.n),)](
            grad.dy, grad.y, grad.mean, grad.dmean, grad.dvar, packed,
            x, source.mean, source.scale, source.shift, dx, daddend, partial,
            inverse_count=grad.inverse_count, out_channels=out_channels, channels=channels,
            w_tap=w_tap, w_k=w_out, w_n=w_in,
            HAS_STATS=grad.y is not None, HAS_AFFINE=source.mean is not None, RELU=source.relu,
            HAS_ADDEND=daddend is not None, PACK=pack, EVEN_K=even,
            **gather_arguments(gather, it.samples, x.device, tile),
        )  # fmt: skip
        return partial

    def result(tile: launch.Tile) -> Tensor:
        run(tile)
        return dx

    shape = (it, out_channels, channels, source.mean is not None, x.dtype)
    partial = run(tune.choose("dgrad", launch.GATHER_TILES, work, shape, result))
    if partial is None or source.scale is None:
        return SourceGrad(dx, addend=daddend)
    return SourceGrad(dx, *finish_sums(partial, source.scale), daddend)


def _wgrad(grad: Gradient, sources: Sequence[Source], weight: Tensor, it: Problem) -> Tensor:
    """dweight, contiguous, in the weight's dtype."""
    out_channels, all_channels = grad.dy.shape[1], sum(s.x.shape[1] for s in sources)
    taps = weight[0, 0].numel()
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    first = 0
    tiles = [_wgrad_tile(grad, source, it, taps) for source in sources]
    # every source has the same number of splits, so that one second stage serves them all
    splits = max(launch.splits(tile, work) for tile, work in tiles)
    partial = support.float_empty(weight, splits, taps, all_channels, out_channels)
    for source, (tile, _) in zip(sources, tiles, strict=True):
        _wgrad_one(grad, source, it, tile, taps, splits, partial, first)
        first += source.x.shape[1]
    items = taps * all_channels * out_channels
    inner, outer = dweight.stride(1), dweight.stride(0)
    d_c, d_o = (outer, inner) if it.transposed else (inner, outer)
    triton_wgrad.finish_wgrad_kernel[(-(-items // launch.FINISH_ITEMS),)](
        partial, dweight, items, all_channels, out_channels, splits, d_c, d_o,
        BLOCK=launch.FINISH_ITEMS, BLOCK_S=launch.FINISH_SPLITS,
    )  # fmt: skip
    return dweight


def _wgrad_work(grad: Gradient, source: Source, it: Problem, taps: int) -> launch.Work:
    channels, pack = source.x.shape[1], wgrad_packing(source, it)
    return launch.Work(
        rows=taps * pack if pack else channels,
        columns=grad.dy.shape[1],
        depth=it.samples * it.small[0] * it.small[1] * it.small[2],
        operands=(1 + (source.addend is not None), 1 if grad.y is None else 2),
        itemsize=source.x.element_size(),
        splits_depth=True,
        products=1 if pack else taps,
    )


def wgrad_packing(source: Source, it: Problem) -> int:
    """PACK of the rows; a transposed convolution's taps move G, not the source, and cannot share a step."""
    return 0 if it.transposed else launch.packing(source.x.shape[1])


def _wgrad_tile(grad: Gradient, source: Source, it: Problem, taps: int) -> tuple[launch.Tile, launch.Work]:
    work = _wgrad_work(grad, source, it, taps)
    channels, out_channels = source.x.shape[1], grad.dy.shape[1]

    def run(tile: launch.Tile) -> Tensor:
        splits = launch.splits(tile, work)
        partial = support.float_empty(grad.dy, splits, taps, channels, out_channels)
        _wgrad_one(grad, source, it, tile, taps, splits, partial, 0)
        return partial.sum(0)

    shape = (it, channels, out_channels, source.mean is not None, source.x.dtype)
    return tune.choose("wgrad", launch.WGRAD_TILES, work, shape, run), work


def _wgrad_one(
    grad: Gradient, source: Source, it: Problem, tile: launch.Tile, taps: int, splits: int, partial: Tensor, first: int
) -> None:
    """Every split's sum for one source, into partial ``[S, taps, C, C_out]`` from channel ``first`` on."""
    channels, out_channels, all_channels = source.x.shape[1], grad.dy.shape[1], partial.shape[2]
    pack = wgrad_packing(source, it)
    bt, bh, bw = launch.block_shape(tile.k, it.small)
    blocks = -(-taps * pack // tile.m) if pack else taps * -(-channels // tile.m)
    triton_wgrad.conv_wgrad_kernel[(splits * blocks * -(-out_channels // tile.n),)](
        source.x, source.mean, source.scale, source.shift, source.addend, *grad[:5],
        partial[:, :, first:], it.samples, it.small, it.large, it.padding, it.dilation, grad.inverse_count,
        channels, out_channels, all_channels, splits,
        HAS_AFFINE=source.mean is not None, RELU=source.relu, HAS_ADDEND=source.addend is not None,
        HAS_STATS=grad.y is not None, TRANSPOSED=it.transposed, STRIDE=it.stride, TAPS=it.taps,
        BT=bt, BH=bh, BW=bw, BLOCK_M=tile.m, BLOCK_N=tile.n, PACK=pack,
        PRECISION="ieee" if support.exact_float32() else "tf32",
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip


def _bias_gradient(grad: Gradient, weight: Tensor) -> Tensor:
    """dbias ``[C_out]``, the sum of G, in the weight's dtype."""
    rows, channels = rows_of(grad.dy), grad.dy.shape[1]
    tiles = row_tiles(rows, channels)
    partial = support.float_empty(grad.dy, channels, tiles.programs)
    triton_wgrad.gradient_sums_kernel[(tiles.programs, tiles.channel_blocks)](
        *grad[:5], partial, grad.inverse_count, rows, channels, tiles.rows_per_program,
        HAS_STATS=grad.y is not None, BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS,
    )  # fmt: skip
    dbias = torch.empty(channels, dtype=weight.dtype, device=weight.device)
    triton_wgrad.finish_bias_kernel[(channels,)](partial, dbias, tiles.programs, BLOCK=FINISH_BLOCK)
    return dbias


def _of_nothing(
    grad: Gradient,
    sources: Sequence[Source],
    weight: Tensor,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients where input or output is empty: zeros, but for the bias, which still sees G."""
    grads = []
    for source, needed in zip(sources, needs, strict=True):
        given = (source.x, source.mean, source.scale, source.shift, source.addend)
        grads.append(SourceGrad(*(torch.zeros_like(v) if needed and v is not None else None for v in given)))
    dbias = None
    if needs_bias:
        dbias = _bias_gradient(grad, weight) if grad.dy.numel() else weight.new_zeros(grad.dy.shape[1])
    return grads, torch.zeros_like(weight, memory_format=torch.contiguous_format) if needs_weight else None, dbias
