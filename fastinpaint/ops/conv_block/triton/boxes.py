"""The weight gradient of maps that `activate_first` wrote: the copy engines bring boxes of both to the products."""

from __future__ import annotations

import contextvars
import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.triton import autotune, tiles
from fastinpaint.ops.conv_block.triton.taps import Problem
from fastinpaint.ops.dispatch import triton_support as support

if support.INSTALLED:
    import triton

    from fastinpaint.ops.conv_block.triton import box_wgrad_kernel


class Roles(NamedTuple):
    """Which map a tap moves, and where: at position q of the other, it is read at stride * q + first + dilation * tap.

    Attributes:
        g_moves: whether the moving map is G. Otherwise it is the activation.
        fixed, moving: sizes ``T, H, W``.
    """

    g_moves: bool
    fixed: tuple[int, int, int]
    moving: tuple[int, int, int]
    first: tuple[int, ...]
    dilation: tuple[int, ...]


def roles(conv: Problem, channels: int, out_channels: int) -> Roles:
    """The large map moves. With stride 1 either may, and the one with fewer channels does: a block takes more taps."""
    first = tuple(-p for p in conv.padding)
    large_moves = max(conv.stride) > 1 or (out_channels < channels) == conv.transposed
    if large_moves:
        return Roles(conv.transposed, conv.small, conv.large, first, conv.dilation)
    return Roles(not conv.transposed, conv.large, conv.small, conv.padding, tuple(-d for d in conv.dilation))


def partial_sums(a: Tensor, g: Tensor, conv: Problem) -> Tensor:
    """Every split's partial sum of dweight, ``[S, taps, C, C_out]`` float32, of dense channels-last maps a and G."""
    channels, out_channels, taps = a.shape[1], g.shape[1], math.prod(conv.taps)
    chosen = roles(conv, channels, out_channels)
    moving, fixed = (g, a) if chosen.g_moves else (a, g)
    strides = (1, out_channels) if chosen.g_moves else (out_channels, 1)
    work = tiles.Work(
        rows=taps * moving.shape[1],
        columns=fixed.shape[1],
        depth=conv.samples * math.prod(chosen.fixed),
        operands=(1, 1),
        itemsize=a.element_size(),
        splits_depth=True,
        block=moving.shape[1],
    )

    def run(tile: tiles.Tile) -> Tensor:
        block = tiles.box_rows(tile, moving.shape[1])
        each = tile.m // block
        splits = min(tiles.splits(tile, work), (tiles.OFFSETS - 1) // (taps * channels * out_channels))
        partial = support.float_empty(a, splits, taps, channels, out_channels)
        bt, bh, bw = tiles.block_shape(tile.k, chosen.fixed)
        programs = splits * -(-taps // each) * -(-moving.shape[1] // block) * -(-fixed.shape[1] // tile.n)
        arguments = (
            moving, fixed, partial, conv.samples, chosen.fixed, chosen.moving, chosen.first, chosen.dilation,
            moving.shape[1], fixed.shape[1], channels * out_channels, *strides, splits,
        )  # fmt: skip
        options = {
            "STRIDE": conv.stride, "TAPS": conv.taps, "EACH": each, "BT": bt, "BH": bh, "BW": bw, "BLOCK_M": block,
            "BLOCK_N": tile.n, "num_warps": tile.num_warps, "num_stages": tile.num_stages, **support.OPTIONS,
        }  # fmt: skip
        contextvars.copy_context().run(_launch, (programs,), arguments, options)
        return partial

    shape = (conv, channels, out_channels, a.dtype)
    return run(autotune.choose("boxes", tiles.BOX_TILES, work, shape, lambda tile: [run(tile).sum(0)]))


def _launch(grid: tuple[int], arguments: tuple[object, ...], options: dict[str, object]) -> None:
    """Launch with torch's memory for the descriptors. In a context of its own, so a user's allocator stays."""
    device = next(value.device for value in arguments if isinstance(value, Tensor))
    triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=device))
    box_wgrad_kernel.box_wgrad_kernel[grid](*arguments, **options)
