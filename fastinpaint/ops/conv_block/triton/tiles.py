"""Tiles of the `conv_block` kernels: the candidates as data with reasons, what prunes them, and what chooses.

A remembered measurement decides (`autotune`); without one the model below does. Its constants describe an H200.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastinpaint.ops.activation.triton_launch import power_of_2
from fastinpaint.ops.conv_block.triton.taps import Axis, Gather, Problem, live_share
from fastinpaint.ops.dispatch.triton_support import shared_of_block


class Tile(NamedTuple):
    """One program's block of the product, and how it runs."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


# Rows are places for fwd and dgrad. On sm_80 two thin forwards spill up to 16 bytes and nothing else does:
# docs/results/triton_compiled.md.
GATHER_TILES = (
    # 256 channels at once: the sources are read and made to activations once, and each item of them serves 256 products
    Tile(128, 256, 32, 8, 3),  # the largest that keeps everything in registers; a step of 64, or a fourth stage, spills
    Tile(128, 128, 32, 8, 4),  # with two sources a step of 64 spills on sm_80
    Tile(64, 256, 64, 8, 3),  # for few places
    Tile(64, 128, 64, 4, 3),  # short: for few places, two programs a multiprocessor
    Tile(128, 64, 64, 4, 3),
    Tile(64, 64, 32, 4, 4),  # a step of 64 spills on sm_80
    Tile(128, 32, 32, 4, 4),  # thin outputs: the tensor cores starve, the reads of the sources decide
    Tile(128, 16, 64, 4, 3),
    Tile(128, 16, 32, 4, 4),  # few taps and channels: a step of 64 would be padding
)
# Only taken where measured to be fastest, for what the model does not know: spills and latency.
MEASURED_ONLY = {
    # half the steps, but a few values spill with two sources
    "fwd": (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 3)),
    "dgrad": (Tile(128, 128, 64, 8, 3),),
    # A third less to read than 128 x 128: G is two maps, and comes once for 256 rows. But a step of 16, beside which
    # longer ones spill, may be over before the next one's reads are back.
    "wgrad": (Tile(256, 128, 16, 8, 3), Tile(256, 128, 16, 8, 2), Tile(256, 64, 16, 8, 3)),
}
# Rows are channels of the sources (times taps where packed), steps are places. Both operands are made in registers, so
# that steps of 32 are the longest that spill nowhere beside large accumulators.
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
# What a tile may use: sm_80's 163 KiB less what the compiler adds, so that one table serves every data centre's chip;
# others have less (`shared_budget`).
SHARED_BUDGET = 160 * 1024
SHARED_RESERVE = 3 * 1024
MULTIPROCESSORS = 132
CLOCK_HZ = 1.755e9
MMA_FLOP_PER_CYCLE = {2: 4096, 4: 2048}  # per multiprocessor, dense: bf16/fp16, tf32
L2_BYTES_PER_CYCLE = 24  # per multiprocessor: 5.5 TB/s over 132, an assumption
LANES = 128  # instructions a cycle and multiprocessor outside the tensor cores
REGISTERS = 65536
MIN_K = 16  # the shortest step that a product takes
SHARED_AND_L1 = 256 * 1024
# Instructions of a prologue, for each item: to float32 and back, what it computes, and the mask.
AFFINE, ADDEND, GRADIENT = 6, 2, 8
# A row of an accumulator needs the tensor cores' own shape: narrower products waste part of it.
FULL_RATE_N = 64
# Another shape of block must save this much of the taps.
WORTH_RESHAPING = 0.95
# Up to this many channels the taps of a source are packed into one step.
PACK_LIMIT = 16
# Splits of wgrad: at most this many partial sums, so that the second stage stays small.
MAX_SPLITS = 256
OFFSETS = 1 << 31  # items that a kernel's 32-bit offset reaches
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
        prologue: instructions that make an item of each operand, see `AFFINE`, `ADDEND` and `GRADIENT`.
        gather: which places the rows read; None where no tap reads again what another did (wgrad).
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


def packing(channels: int) -> int:
    """PACK of a map of so many channels: a power of 2 that holds them, or 0 where they fill steps of their own."""
    return power_of_2(channels) if channels <= PACK_LIMIT else 0


def shared_bytes(tile: Tile, work: Work) -> int:
    """Bytes of shared memory that the pipelined loads of a tile need."""
    a, b = work.operands
    return tile.num_stages * tile.k * (a * tile.m + b * tile.n) * work.itemsize


def shared_budget() -> int:
    """Bytes of shared memory that a tile may use on the current device."""
    return min(SHARED_BUDGET, shared_of_block() - SHARED_RESERVE)


def candidates(tiles: tuple[Tile, ...], work: Work) -> list[Tile]:
    """The tiles that fit a pass: no wider than it, within shared memory (fewer stages where that helps), never none."""
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
    return max(1, min(2 * MULTIPROCESSORS * ctas_per_sm(tile, work) // tiles, steps // 8, MAX_SPLITS))


def expected_seconds(tile: Tile, work: Work) -> float:
    """The model: steps of every wave, each as long as its products, its prologue or its bytes from L2."""
    share = splits(tile, work)
    programs = work.products * -(-work.rows // tile.m) * -(-work.columns // tile.n) * share
    steps = -(-work.depth // (tile.k * share))
    together = ctas_per_sm(tile, work)
    waves = -(-programs // (MULTIPROCESSORS * together))
    # a program alone on its multiprocessor has nothing to hide its first loads and its epilogue behind
    exposed = 4 if together == 1 else 2
    return waves * together * (steps + exposed) * cycles_of_step(tile, work, together) / CLOCK_HZ


def cycles_of_step(tile: Tile, work: Work, together: int) -> float:
    """Cycles of a step of one program, of ``together`` on a multiprocessor: the longest of three."""
    products = 2 * tile.m * max(tile.n, FULL_RATE_N) * tile.k / MMA_FLOP_PER_CYCLE[work.itemsize]
    prologue = tile.k * (work.prologue[0] * tile.m + work.prologue[1] * tile.n) / LANES
    a, b = work.operands
    rows = a * tile.m * l2_fraction(tile, work, together)
    return max(products, prologue, tile.k * (rows + b * tile.n) * work.itemsize / L2_BYTES_PER_CYCLE)


def l2_fraction(tile: Tile, work: Work, together: int) -> float:
    """The share of the sources' items that come from L2: the rest was read by another tap and is still in L1."""
    if work.gather is None:
        return 1.0
    block = gather_block(tile.m, work.gather)
    share = math.prod(map(_distinct_share, work.gather.axes, block))
    taps = math.prod(max(count for count, _, _ in axis.phases) for axis in work.gather.axes)
    kept = share * taps * tile.m * tile.k * work.operands[0] * work.itemsize
    return share if together * (kept + shared_bytes(tile, work)) <= SHARED_AND_L1 else 1.0


def _distinct_share(axis: Axis, block: int) -> float:
    """Different places that a block's taps read along an axis, over all places that they read."""
    count = max(1, *(count for count, _, _ in axis.phases))
    places = {axis.in_stride * q + axis.offset_step * j for q in range(block) for j in range(count)}
    return len(places) / (block * count)


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


def why_not_offsets(conv: Problem, channels: int, out_channels: int) -> str | None:
    """Why the kernels' 32-bit offsets, from a tile's first place on, do not reach all that a tile reads, or None."""
    most = math.prod(conv.taps) * channels * out_channels  # the weight, and a split's sums
    sizes = ((conv.forward(), channels, out_channels), (conv.backward(), out_channels, channels))
    for gather, read, written in sizes:
        for items in {tile.m for tile in GATHER_TILES} | {tile.k for tile in WGRAD_TILES}:
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
    """Places between the first and the last that a block's taps may read, from its own first place."""
    last = max(abs(first) + max(0, count - 1) * axis.offset_step for count, _, first in axis.phases)
    return (block - 1) * axis.in_stride + last + 1


def tiles_of(block: tuple[int, ...], size: tuple[int, ...], samples: int) -> int:
    """How many such blocks cover the places of all samples."""
    return samples * math.prod(-(-n // b) for n, b in zip(size, block, strict=True))
