"""Shared by the launches of `conv_block`: dense operands, weight strides, and arguments that place tiles."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.conv_block.triton import tiles
from fastinpaint.ops.conv_block.triton.taps import Gather, phase_table
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.types import Source


def densely(source: Source) -> Source:
    """The source with dense channels-last maps: itself where they are."""
    x, mean, scale, shift, relu, addend = source
    dense = layout.FORMATS[x.dim()]
    if addend is None and x.is_contiguous(memory_format=dense):
        return source
    addend = None if addend is None else addend.contiguous(memory_format=dense)
    return Source(x.contiguous(memory_format=dense), mean, scale, shift, relu, addend)


def weight_strides(weight: Tensor, transposed: bool) -> tuple[Tensor, int, int, int]:
    """The weight as dense channels-last (itself if it is already), and its strides by tap, input and output channel.

    Forward and dgrad read the same copy. Its rows are contiguous in the input channels (transposed: output channels).
    """
    packed = weight.contiguous(memory_format=layout.FORMATS[weight.dim()])
    inner, taps = weight.shape[1], weight.shape[2:].numel()
    outer = taps * inner
    return (packed, inner, outer, 1) if transposed else (packed, inner, 1, outer)


def prologue(sources: Sequence[Source]) -> int:
    """Instructions per item of the activation, for the launch model."""
    most = 0
    for _, mean, _, _, relu, addend in sources:
        most = max(most, (mean is not None or relu) * tiles.AFFINE + (addend is not None) * tiles.ADDEND)
    return most


@functools.lru_cache(maxsize=1024)
def gather_arguments(gather: Gather, samples: int, tile: tiles.Tile, exact: bool) -> Mapping[str, Any]:
    """The arguments that place a gather's tiles, for fwd and dgrad. exact: whether float32 keeps all its bits."""
    bt, bh, bw = tiles.gather_block(tile.m, gather)
    return {
        "table": phase_table(gather.axes),
        "samples": samples,
        "in_size": gather.in_size,
        "out_size": gather.out_size,
        "step": tuple(a.offset_step for a in gather.axes),
        "TIME": gather.moves_in_time,
        "IN_STRIDE": tuple(a.in_stride for a in gather.axes),
        "OUT_STRIDE": tuple(a.out_stride for a in gather.axes),
        "TAPS": gather.taps,
        "TAP_STEP": tuple(a.tap_step for a in gather.axes),
        "BT": bt,
        "BH": bh,
        "BW": bw,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
        "PRECISION": "ieee" if exact else "tf32",
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        **support.OPTIONS,
    }


@functools.lru_cache(maxsize=1024)
def gather_parts(gather: Gather, samples: int, tile: tiles.Tile) -> int:
    """Number of tiles over all phases, which is the number of partial statistics or sums."""
    block = tiles.gather_block(tile.m, gather)
    return gather.phase_count * tiles.tiles_of(block, gather.phase_size(), samples)


@functools.lru_cache(maxsize=1024)
def lanes(channels: int, tile: tiles.Tile) -> tuple[int, bool]:
    """PACK and EVEN_K for an operand with that many channels."""
    pack = tiles.packing(channels)
    return pack, pack == channels if pack else channels % tile.k == 0
