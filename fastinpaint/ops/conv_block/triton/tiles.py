"""Tiles of the `conv_block` kernels: the candidates with their reasons, and a launch model that ranks them.

A measurement decides if there is one (`autotune`), else the model below. Its constants describe an H200.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastinpaint.ops.activation.triton_launch import power_of_2
from fastinpaint.ops.conv_block.triton.taps import Axis, Gather, Problem, live_share
from fastinpaint.ops.dispatch.triton_support import shared_of_block


class Tile(NamedTuple):
    """The block of a program's product, its warps and its pipeline stages."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


# For fwd and dgrad rows are positions. On sm_80 two thin forwards spill up to 16 bytes; nothing else spills
# (docs/results/triton_compiled.md).
GATHER_TILES: tuple[Tile, ...] = (
    # 256 channels: the sources are loaded and activated once, and each item serves 256 products
    Tile(128, 256, 32, 8, 3),  # the largest without spills; a step of 64 or a fourth stage spills
    Tile(128, 128, 32, 8, 4),  # with two sources a step of 64 spills on sm_80
    Tile(64, 256, 64, 8, 3),  # for few positions
    Tile(64, 128, 64, 4, 3),  # for few positions, two programs per multiprocessor
    Tile(128, 64, 64, 4, 3),
    Tile(128, 64, 32, 4, 4),  # what its taps share stays in L1
    Tile(64, 64, 32, 4, 4),  # a step of 64 spills on sm_80
    Tile(128, 32, 32, 4, 4),  # thin outputs: bound by reading the sources, not by tensor cores
    Tile(128, 16, 64, 4, 3),
    Tile(128, 16, 32, 4, 4),  # few taps and channels: a step of 64 would be mostly padding
)
# Fwd and dgrad of maps that `activate_first` wrote. Without a prologue more rows fit the registers, and each item of
# the weight serves 256 of them.
WRITTEN_TILES = (*GATHER_TILES, Tile(256, 128, 64, 8, 3), Tile(256, 64, 32, 8, 4))
# Chosen only by measurement, because the model does not include spills and latency.
MEASURED_ONLY = {
    # half the steps, but a few values spill with two sources
    "fwd": (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 3)),
    "dgrad": (Tile(128, 128, 64, 8, 3),),
    # Reads a third less than 128 x 128: G is two maps and is read once for 256 rows. But a step of 16 (longer ones
    # spill) may end before the next loads arrive.
    "wgrad": (Tile(256, 128, 16, 8, 3), Tile(256, 128, 16, 8, 2), Tile(256, 64, 16, 8, 3)),
}
# For wgrad rows are source channels (times taps if packed) and steps are positions. Both operands are computed in
# registers, so with large accumulators steps of 32 are the longest without spills.
WGRAD_TILES = (
    Tile(128, 128, 32, 8, 4),
    Tile(64, 128, 32, 4, 3),
    Tile(128, 64, 32, 4, 3),
    Tile(64, 64, 32, 4, 4),
    Tile(64, 32, 32, 4, 3),
    Tile(128, 16, 64, 4, 3),  # packed taps of a thin source, or a thin output
    Tile(64, 16, 64, 4, 3),  # thin outputs of wider sources
    Tile(32, 16, 64, 4, 3),
    Tile(32, 64, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
    Tile(16, 16, 64, 4, 4),
)
# For wgrad from boxes rows are channels of the moving map times taps, and steps are positions. Nothing is computed in
# the loop, so what a step brings from L2 is its cost: 384 channels for 128 x 256 products and as many for 256 x 128,
# but only 448 for 192 x 256 and 512 for 384 x 128. Three taps a program also leave none over of a 3 x 3 kernel.
BOX_TILES = (
    Tile(192, 256, 64, 8, 3),
    Tile(384, 128, 64, 8, 3),
    Tile(192, 128, 64, 8, 3),
    Tile(256, 128, 64, 8, 3),
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(256, 64, 64, 8, 3),
    Tile(128, 128, 64, 4, 3),
    Tile(64, 64, 64, 4, 4),
)
# Shared memory of a tile: sm_80's 163 KiB less what the compiler adds, so that one table serves all data-centre GPUs.
# Other GPUs have less (`shared_budget`).
SHARED_BUDGET = 160 * 1024
SHARED_RESERVE = 3 * 1024
MULTIPROCESSORS = 132
BANDWIDTH, LAUNCH = 4.3e12, 2e-6  # bytes per second, as reached by a copy; seconds between launches, an assumption
L2_KEEPS = 25e6  # bytes that are read from L2 if they were just written: half of its 50 MB, an assumption
CLOCK_HZ = 1.755e9
MMA_FLOP_PER_CYCLE = {2: 4096, 4: 2048}  # per multiprocessor, dense: bf16/fp16, tf32
L2_BYTES_PER_CYCLE = 38  # per multiprocessor: 5120 over 132 as an A100 has, an assumption (tools/inspect/rates.py)
SHARED_BYTES_PER_CYCLE, PRODUCT_ROWS = 128, 64  # per multiprocessor; of wgmma
LANES = 128  # instructions per cycle and multiprocessor outside the tensor cores
REGISTERS = 65536
MIN_K = 16  # the shortest step of a product
SHARED_AND_L1 = 256 * 1024
# Instructions per item of a prologue: conversion to float32 and back, arithmetic, and the mask.
AFFINE, ADDEND, GRADIENT = 6, 2, 8
# The tensor cores' own row count: narrower products waste part of it.
FULL_RATE_N = 64
# A different block shape must save this share of the taps.
WORTH_RESHAPING = 0.95
# Sources with up to this many channels have several taps packed into one step.
PACK_LIMIT = 16
# Most partial sums of wgrad's split-K, so that the second stage stays small.
MAX_SPLITS = 256
# Programs that may share the sums of a tile of fwd or dgrad, so that few tiles fill all multiprocessors.
GATHER_SPLITS = (1, 2, 4, 8)
LEAST_STEPS = 8  # of a program that shares its sums
FLOAT = 4  # bytes
OFFSETS = 1 << 31  # items within reach of a kernel's 32-bit offset
FINISH_ITEMS, FINISH_SPLITS = 128, 32


class Work(NamedTuple):
    """A pass as described to the launch model.

    Attributes:
        rows, columns: size of one product over all programs: positions (wgrad: channels, times taps if packed), and
            channels.
        depth: length of the sums (live taps times channels; wgrad: live positions).
        operands: number of maps read per operand: 2 for a source with an addend or for G with statistics.
        itemsize: bytes per item.
        splits_depth: whether several programs may share the depth (wgrad's split-K).
        products: number of such products: one per phase or tap.
        prologue: instructions per item of each operand, see `AFFINE`, `ADDEND` and `GRADIENT`.
        gather: the positions that the rows read; None if taps share no reads (wgrad) or none is assumed to.
        splits_sums: whether a second launch may add what several programs summed (fwd, dgrad).
        live: the share of the depth that tiles do not skip.
        block: channels of the moving map, if a tile is a product per tap (wgrad from boxes).
    """

    rows: int
    columns: int
    depth: int
    operands: tuple[int, int]
    itemsize: int
    splits_depth: bool = False
    products: int = 1
    prologue: tuple[int, int] = (0, 0)
    gather: Gather | None = None
    splits_sums: bool = False
    live: float = 1.0
    block: int = 0


@functools.cache
def packing(channels: int) -> int:
    """PACK for that many channels: the next power of 2, or 0 if they fill steps of their own."""
    return power_of_2(channels) if channels <= PACK_LIMIT else 0


def shared_bytes(tile: Tile, work: Work) -> int:
    """Bytes of shared memory for the pipelined loads of a tile."""
    a, b = work.operands
    return tile.num_stages * tile.k * (a * tile.m + b * tile.n) * work.itemsize


def box_rows(tile: Tile, channels: int) -> int:
    """Channels of the moving map in one product of a tile of boxes. A tile has one such product per tap."""
    return min(tile.m & -tile.m, power_of_2(channels))


def shared_budget() -> int:
    """Bytes of shared memory available to a tile on the current device."""
    return min(SHARED_BUDGET, shared_of_block() - SHARED_RESERVE)


def candidates(tiles: tuple[Tile, ...], work: Work) -> list[Tile]:
    """The tiles that fit a pass: no wider than it and within shared memory (with fewer stages if needed)."""
    fitting, budget = [], shared_budget()
    for tile in tiles:
        if work.itemsize == 4:
            tile = tile._replace(k=tile.k // 2)
        if tile.k < MIN_K:
            continue
        if tile.n > max(16, power_of_2(work.columns)) or (
            work.splits_depth and tile.m > max(16, power_of_2(work.rows))
        ):
            continue
        while tile.num_stages > 2 and shared_bytes(tile, work) > budget:
            tile = tile._replace(num_stages=tile.num_stages - 1)
        if shared_bytes(tile, work) <= budget:
            fitting.append(tile)
    return fitting


def ctas_per_sm(tile: Tile, work: Work) -> int:
    """Programs per multiprocessor, limited by registers and shared memory."""
    registers = min(255, tile.m * tile.n // (32 * tile.num_warps) + 90)
    by_registers = REGISTERS // (32 * tile.num_warps * registers)
    return max(1, min(by_registers, 227 * 1024 // max(shared_bytes(tile, work), 1)))


@functools.lru_cache(maxsize=4096)
def splits(tile: Tile, work: Work) -> int:
    """Number of split-K programs per tile: for wgrad enough for two waves, else the number expected to be fastest."""
    steps = -(-work.depth // tile.k)
    if work.splits_sums:
        possible = [share for share in GATHER_SPLITS if share == 1 or steps // share >= LEAST_STEPS]
        return min(possible, key=lambda share: seconds_of(tile, work, share))
    if not work.splits_depth:
        return 1
    return max(1, min(2 * MULTIPROCESSORS * ctas_per_sm(tile, work) // _blocks(tile, work), steps // 8, MAX_SPLITS))


def _blocks(tile: Tile, work: Work) -> int:
    return work.products * -(-work.rows // tile.m) * -(-work.columns // tile.n)


def expected_seconds(tile: Tile, work: Work) -> float:
    """The launch model: a step takes as long as the slowest of its products, its prologue and its bytes from L2."""
    return seconds_of(tile, work, splits(tile, work))


def seconds_of(tile: Tile, work: Work, share: int) -> float:
    """As `expected_seconds`, with that many programs per tile."""
    programs = _blocks(tile, work) * share
    steps = math.ceil(work.depth * work.live / (tile.k * share))
    together = ctas_per_sm(tile, work)
    waves = -(-programs // (MULTIPROCESSORS * together))
    # A single program per multiprocessor cannot hide its first loads and its epilogue. With shared sums the epilogue is
    # in `sums_seconds`.
    exposed = 4 if together == 1 and not (work.splits_sums and share > 1) else 2
    seconds = waves * together * (steps + exposed) * cycles_of_step(tile, work, together) / CLOCK_HZ
    return seconds + sums_seconds(work, share)


def sums_seconds(work: Work, share: int) -> float:
    """The second launch of fwd or dgrad: the sums of ``share`` programs per tile are written and read."""
    if not work.splits_sums or share == 1:
        return 0.0
    written = share * work.products * work.rows * work.columns * FLOAT
    rate = MULTIPROCESSORS * L2_BYTES_PER_CYCLE * CLOCK_HZ if written <= L2_KEEPS else BANDWIDTH
    return 2 * written / rate + LAUNCH


def cycles_of_step(tile: Tile, work: Work, together: int) -> float:
    """Cycles of a step with ``together`` programs per multiprocessor: the longest of four bounds."""
    products = 2 * tile.m * max(tile.n, FULL_RATE_N) * tile.k / MMA_FLOP_PER_CYCLE[work.itemsize]
    prologue = tile.k * (work.prologue[0] * tile.m + work.prologue[1] * tile.n) / LANES
    a, b = work.operands
    # Each item is written once. A warpgroup's product of 64 rows reads its rows and its columns: all of them, unless
    # the rows are too few for all warpgroups.
    product_rows = max(PRODUCT_ROWS, box_rows(tile, work.block) if work.block else tile.m)
    read = tile.m * max(1.0, tile.num_warps / 4 * PRODUCT_ROWS / product_rows) + tile.n * tile.m / PRODUCT_ROWS
    shared = tile.k * (tile.m + tile.n + read) * work.itemsize / SHARED_BYTES_PER_CYCLE
    rows = a * tile.m * l2_fraction(tile, work, together)
    return max(products, prologue, shared, tile.k * (rows + b * tile.n) * work.itemsize / L2_BYTES_PER_CYCLE)


def l2_fraction(tile: Tile, work: Work, together: int) -> float:
    """The share of the sources' items read from L2. The rest is still in L1 from another tap."""
    if work.gather is None:
        return 1.0
    block = gather_block(tile.m, work.gather)
    share = math.prod(map(_distinct_share, work.gather.axes, block))
    taps = math.prod(max(count for count, _, _ in axis.phases) for axis in work.gather.axes)
    kept = share * taps * tile.m * tile.k * work.operands[0] * work.itemsize
    return share if together * (kept + shared_bytes(tile, work)) <= SHARED_AND_L1 else 1.0


def _distinct_share(axis: Axis, block: int) -> float:
    """Distinct positions that a block's taps read along an axis, over all their reads."""
    count = max(1, *(count for count, _, _ in axis.phases))
    places = {axis.in_stride * q + axis.offset_step * j for q in range(block) for j in range(count)}
    return len(places) / (block * count)


def best(tiles: tuple[Tile, ...], work: Work) -> Tile:
    """The tile that the model expects to be fastest."""
    return min(candidates(tiles, work), key=lambda tile: expected_seconds(tile, work))


@functools.lru_cache(maxsize=1024)
def gather_block(items: int, gather: Gather) -> tuple[int, int, int]:
    """The block of a gather's tiles: `block_shape`'s, or the one that skips most dead taps if it saves enough.

    With a dilation of 8 in frames of 16 x 16 the best is 8 x 8 positions of two frames: a row of 16 reaches every tap
    along its width. Short rows cost nothing if a pixel's channels fill a cache line.
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


@functools.lru_cache(maxsize=1024)
def live_share_of(gather: Gather) -> float:
    """The share of its taps that tiles of a usual size do not skip."""
    return live_share(gather, gather_block(GATHER_TILES[0].m, gather))


@functools.lru_cache(maxsize=1024)
def block_shape(items: int, size: tuple[int, ...]) -> tuple[int, int, int]:
    """BT x BH x BW = items: rows of up to 16, then as square as the frame allows, the rest in time.

    Most tiles have 8 x 16 positions of one frame, which is short enough in both directions to skip dead taps.
    """
    w = min(16, power_of_2(size[2]), items)
    h = min(items // w, power_of_2(size[1]))
    return items // (w * h), h, w


def why_not_offsets(conv: Problem, channels: int, out_channels: int) -> str | None:
    """Why the kernels' 32-bit offsets within a tile cannot reach all of its reads, in one sentence, or None."""
    most = math.prod(conv.taps) * channels * out_channels  # the weight, and the sums of a split
    sizes = ((conv.forward(), channels, out_channels), (conv.backward(), out_channels, channels))
    for gather, read, written in sizes:
        for items in {tile.m for tile in WRITTEN_TILES} | {tile.k for tile in WGRAD_TILES}:
            block = gather_block(items, gather)
            reach = [_reach(axis, n) for axis, n in zip(gather.axes, block, strict=True)]
            across = [axis.out_stride * n for axis, n in zip(gather.axes, block, strict=True)]
            for extent, size, width in ((reach, gather.in_size, read), (across, gather.out_size, written)):
                t, h, w = (min(e, n) for e, n in zip(extent, size, strict=True))
                most = max(most, (((t - 1) * size[1] + h) * size[2] + w) * width)
    if most < OFFSETS:
        return None
    return f"conv_block: the Triton kernels' offsets inside a tile are 32 bits, and this one's reach {most:,} items."


def _reach(axis: Axis, block: int) -> int:
    """The distance between the first and last position that a block's taps may read."""
    last = max(abs(first) + max(0, count - 1) * axis.offset_step for count, _, first in axis.phases)
    return (block - 1) * axis.in_stride + last + 1


def tiles_of(block: tuple[int, ...], size: tuple[int, ...], samples: int) -> int:
    """The number of blocks that cover all samples."""
    return samples * math.prod(-(-n // b) for n, b in zip(size, block, strict=True))
