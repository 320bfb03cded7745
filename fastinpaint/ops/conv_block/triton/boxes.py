"""The weight gradient of maps that `activate_first` wrote: the copy engines bring boxes of both to the products."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.triton import autotune, tiles
from fastinpaint.ops.conv_block.triton.prepared import Memory, Prepared, kept, prepare, remembered
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


def partial_sums(a: Tensor, g: Tensor, conv: Problem, steps: Memory) -> Tensor:
    """Every split's partial sum of dweight, ``S * taps * C * C_out`` float32, of dense channels-last maps a and G."""
    found = remembered(steps, "boxes", box_wgrad_kernel.box_wgrad_kernel)
    if found is None:
        found = kept(steps, "boxes", *_prepare(a, g, conv))
    return _run(found, a, g)


def _run(found: Prepared, a: Tensor, g: Tensor) -> Tensor:
    """Launch it. In a context of its own, because it sets Triton's allocator, and a user's must stay."""
    shape, g_moves = found.sizes
    partial = torch.empty(math.prod(shape), dtype=torch.float32, device=a.device)
    moving, fixed = (g, a) if g_moves else (a, g)
    contextvars.copy_context().run(_launch, found.launch, moving, fixed, partial)
    return partial


def _launch(launch: Callable[..., object], *tensors: Tensor) -> None:
    """Launch with torch's memory for the descriptors."""
    device = tensors[0].device
    triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=device))
    launch(*tensors)


def _prepare(a: Tensor, g: Tensor, conv: Problem) -> tuple[Prepared, bool]:
    """The launch, and whether it will be the same from now on."""
    channels, out_channels, taps = a.shape[1], g.shape[1], math.prod(conv.taps)
    chosen = roles(conv, channels, out_channels)
    moving, fixed = (out_channels, channels) if chosen.g_moves else (channels, out_channels)
    strides = (1, out_channels) if chosen.g_moves else (out_channels, 1)
    work = tiles.Work(
        rows=taps * moving,
        columns=fixed,
        depth=conv.samples * math.prod(chosen.fixed),
        operands=(1, 1),
        itemsize=a.element_size(),
        splits_depth=True,
        block=moving,
    )

    def launch(tile: tiles.Tile) -> Prepared:
        block = tiles.box_rows(tile, moving)
        each = tile.m // block
        splits = min(tiles.splits(tile, work), (tiles.OFFSETS - 1) // (taps * channels * out_channels))
        bt, bh, bw = tiles.block_shape(tile.k, chosen.fixed)
        programs = splits * -(-taps // each) * -(-moving // block) * -(-fixed // tile.n)
        numbers = {
            "samples": conv.samples, "fixed_size": chosen.fixed, "moving_size": chosen.moving,
            "first_offset": chosen.first, "dilation": chosen.dilation, "moving_channels": moving,
            "fixed_channels": fixed, "tap_stride": channels * out_channels, "moving_stride": strides[0],
            "fixed_stride": strides[1], "splits": splits, "STRIDE": conv.stride, "TAPS": conv.taps, "EACH": each,
            "BT": bt, "BH": bh, "BW": bw, "BLOCK_M": block, "BLOCK_N": tile.n, "num_warps": tile.num_warps,
            "num_stages": tile.num_stages, **support.OPTIONS,
        }  # fmt: skip
        sizes = ((splits, taps, channels, out_channels), chosen.g_moves)
        return prepare(box_wgrad_kernel.box_wgrad_kernel, (programs,), numbers, sizes)

    def result(tile: tiles.Tile) -> list[Tensor]:
        found = launch(tile)
        return [_run(found, a, g).view(found.sizes[0]).sum(0)]

    shape = (conv, channels, out_channels, a.dtype)
    found = launch(autotune.choose("boxes", tiles.BOX_TILES, work, shape, result))
    return found, autotune.is_chosen("boxes", work, shape)
