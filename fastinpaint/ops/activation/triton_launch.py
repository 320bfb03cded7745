"""Launch shapes of the `activation` kernels, with their reasons."""

from __future__ import annotations

from typing import NamedTuple

# Items per program: 16 per thread at 8 warps, which are two 16-byte accesses of bfloat16 per map.
BLOCK_ITEMS = 4096
# A row of 128 bfloat16 channels is 256 bytes, two full cache lines. Wider blocks gain nothing.
MAX_BLOCK_C = 128
# Partial results of a reduction: four waves of two programs on 132 multiprocessors, for a quick second stage.
MAX_PROGRAMS = 1024
# Partial results that the second stage reads at once.
FINISH_BLOCK = 1024
NUM_WARPS = 8


class RowTiles(NamedTuple):
    """Tiles of ``[R, C]``: blocks of rows and channels and, for reductions, programs and rows per program."""

    block_r: int
    block_c: int
    channel_blocks: int
    programs: int
    rows_per_program: int


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def row_tiles(rows: int, channels: int) -> RowTiles:
    """The tiles of a map of that many rows and channels."""
    block_c = min(1 << max(channels - 1, 0).bit_length(), MAX_BLOCK_C)
    block_r = min(BLOCK_ITEMS // block_c, 1 << max(rows - 1, 0).bit_length())
    blocks = -(-rows // block_r)
    blocks_each = -(-blocks // MAX_PROGRAMS) or 1
    return RowTiles(block_r, block_c, -(-channels // block_c), -(-blocks // blocks_each), blocks_each * block_r)
