"""Tiles of the `conv_block` kernels: the candidates as data with reasons, what prunes them, and what chooses.

A remembered measurement decides (`triton_tune`); without one the model below does. Its constants describe an H200.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastinpaint.ops.activation.triton_launch import power_of_2
from fastinpaint.ops.conv_block.triton_taps import Gather, live_share


class Tile(NamedTuple):
    """One program's block of the product, and how it runs."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


# Rows are places for fwd and dgrad. Every one compiles for sm_90 without spills (docs/triton.md). 128 x 256 would read
# less, 85 FLOP for each byte from L2 instead of 64, but spills: 64 bytes in fwd and 1.5 kB in dgrad with 8 warps, 40
# and 856 with 16.
GATHER_TILES = (
    Tile(128, 128, 64, 8, 3),  # the largest that keeps everything in registers (fwd 203, dgrad 254)
    Tile(64, 256, 64, 8, 3),  # one read of the sources for 256 channels
    Tile(64, 128, 64, 4, 3),  # short: for few places, two programs a multiprocessor
    Tile(128, 64, 64, 4, 3),
    Tile(64, 64, 64, 4, 3),
    Tile(128, 32, 64, 4, 3),  # thin outputs: the tensor cores starve, the reads of the sources decide
    Tile(128, 16, 64, 4, 3),
    Tile(128, 16, 32, 4, 4),  # few taps and channels: a step of 64 would be padding
)
# Only taken where measured to be fastest: a few values spill around the epilogue of the statistics, but it reads less.
MEASURED_ONLY = {"fwd": (Tile(128, 256, 64, 8, 3),)}
# Rows are channels of the sources (times taps where packed), steps are places.
WGRAD_TILES = (
    Tile(128, 128, 64, 8, 3),
    Tile(64, 128, 64, 4, 2),  # a third stage spills here
    Tile(128, 64, 64, 4, 2),
    Tile(64, 64, 64, 4, 3),
    Tile(64, 32, 64, 4, 3),
    Tile(128, 16, 64, 4, 3),  # packed taps of a thin source, or a thin output
    Tile(32, 64, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
    Tile(16, 16, 64, 4, 4),
)
# What a block may use: sm_80's 163 KiB less what the compiler adds, so that one table serves every architecture.
SHARED_BUDGET = 160 * 1024
MULTIPROCESSORS = 132
CLOCK_HZ = 1.755e9
MMA_FLOP_PER_CYCLE = {2: 4096, 4: 2048}  # per multiprocessor, dense: bf16/fp16, tf32
L2_BYTES_PER_CYCLE = 24  # per multiprocessor: 5.5 TB/s over 132, an assumption
REGISTERS = 65536
# A row of an accumulator needs the tensor cores' own shape: narrower products waste part of it.
FULL_RATE_N = 64
# Another shape of block must save this much of the taps.
WORTH_RESHAPING = 0.95
# Up to this many channels the taps of a source are packed into one step.
PACK_LIMIT = 16
# Splits of wgrad: at most this many partial sums, so that the second stage stays small.
MAX_SPLITS = 256
FINISH_ITEMS, FINISH_SPLITS = 128, 32


class Work(NamedTuple):
    """A pass as the model sees it.

    Attributes:
        rows, columns: of one product over all programs, before tiles: places or channels (times taps where packed),
            and channels.
        depth: length of the sum behind one of them (live taps times channels, or live places).
        operands: maps read for each operand: a source with an addend is 2, G with statistics is 2.
        itemsize: bytes of an item.
        splits_depth: whether several programs may share the depth (wgrad).
        products: how many such products there are: one for each phase or tap.
    """

    rows: int
    columns: int
    depth: int
    operands: tuple[int, int]
    itemsize: int
    splits_depth: bool = False
    products: int = 1


def packing(channels: int) -> int:
    """PACK of a map of so many channels: a power of 2 that holds them, or 0 where they fill steps of their own."""
    return power_of_2(channels) if channels <= PACK_LIMIT else 0


def shared_bytes(tile: Tile, work: Work) -> int:
    """Bytes of shared memory that the pipelined loads of a tile need."""
    a, b = work.operands
    return tile.num_stages * tile.k * (a * tile.m + b * tile.n) * work.itemsize


def candidates(tiles: tuple[Tile, ...], work: Work) -> list[Tile]:
    """The tiles that fit a pass: no wider than it, within shared memory (fewer stages where that helps), never none."""
    fitting = []
    for tile in tiles:
        if work.itemsize == 4:
            tile = tile._replace(k=tile.k // 2)
        if tile.n > max(16, power_of_2(work.columns)) or (
            work.splits_depth and tile.m > max(16, power_of_2(work.rows))
        ):
            continue
        while tile.num_stages > 2 and shared_bytes(tile, work) > SHARED_BUDGET:
            tile = tile._replace(num_stages=tile.num_stages - 1)
        if shared_bytes(tile, work) <= SHARED_BUDGET:
            fitting.append(tile)
    return fitting


def programs_each(tile: Tile, work: Work) -> int:
    """Programs that one multiprocessor holds at once, by registers and shared memory."""
    registers = min(255, tile.m * tile.n // (32 * tile.num_warps) + 90)
    by_registers = REGISTERS // (32 * tile.num_warps * registers)
    return max(1, min(by_registers, 227 * 1024 // max(shared_bytes(tile, work), 1)))


def splits(tile: Tile, work: Work) -> int:
    """How many programs share the depth of one tile: enough for two waves, at least 8 steps each."""
    if not work.splits_depth:
        return 1
    tiles = work.products * -(-work.rows // tile.m) * -(-work.columns // tile.n)
    steps = -(-work.depth // tile.k)
    return max(1, min(2 * MULTIPROCESSORS * programs_each(tile, work) // tiles, steps // 8, MAX_SPLITS))


def expected_seconds(tile: Tile, work: Work) -> float:
    """The model: steps of every wave, each as long as its products or its bytes from L2, whichever is longer."""
    share = splits(tile, work)
    programs = work.products * -(-work.rows // tile.m) * -(-work.columns // tile.n) * share
    steps = -(-work.depth // (tile.k * share))
    flop = 2 * tile.m * max(tile.n, FULL_RATE_N) * tile.k
    a, b = work.operands
    loaded = tile.k * (a * tile.m + b * tile.n) * work.itemsize
    cycles = max(flop / MMA_FLOP_PER_CYCLE[work.itemsize], loaded / L2_BYTES_PER_CYCLE)
    together = programs_each(tile, work)
    waves = -(-programs // (MULTIPROCESSORS * together))
    # a program alone on its multiprocessor has nothing to hide its first loads and its epilogue behind
    exposed = 4 if together == 1 else 2
    return waves * together * (steps + exposed) * cycles / CLOCK_HZ


def best(tiles: tuple[Tile, ...], work: Work) -> Tile:
    """The tile that the model expects to be fastest."""
    return min(candidates(tiles, work), key=lambda tile: expected_seconds(tile, work))


@functools.lru_cache(maxsize=1024)
def gather_block(items: int, gather: Gather) -> tuple[int, int, int]:
    """The block of a gather's tiles: `block_shape`'s, or the one that leaves out most dead taps if that pays.

    A dilation of 8 in frames of 16 x 16 wants 8 x 8 places of two frames: a row of 16 reaches every tap of its width.
    The items of a pixel lie together, so that short rows cost nothing where there are channels enough to fill a line.
    """
    size = gather.phase_size()

    def cost(block: tuple[int, int, int]) -> float:
        covered = math.prod(-(-n // b) * b / n for n, b in zip(size, block, strict=True))
        return covered * live_share(gather, block)

    usual = block_shape(items, size)
    sides = [side for side in (4, 8, 16) if side <= items]
    shapes = [(items // (h * w), h, w) for h in sides for w in sides if h * w <= items]
    best_shape = min([usual, *shapes], key=cost)
    return best_shape if cost(best_shape) < WORTH_RESHAPING * cost(usual) else usual


def block_shape(items: int, size: tuple[int, ...]) -> tuple[int, int, int]:
    """BT x BH x BW = items places: rows of up to 16, then as square as the frame allows, the rest in time.

    8 x 16 places of one frame is the block of most tiles: short enough in both directions to leave out dead taps.
    """
    w = min(16, power_of_2(size[2]), items)
    h = min(items // w, power_of_2(size[1]))
    return items // (w * h), h, w


def tiles_of(block: tuple[int, ...], size: tuple[int, ...], samples: int) -> int:
    """How many such blocks cover the places of all samples."""
    return samples * math.prod(-(-n // b) for n, b in zip(size, block, strict=True))
