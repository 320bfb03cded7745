"""Forward and dgrad of few tiles: programs that share sums give the reference's results; the model chooses them."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block.triton import activate_first, tiles, two_stages
from fastinpaint.ops.conv_block.triton.taps import Axis, Gather
from fastinpaint.testing import interpreter
from tests.ops.conv_block.triton.test_boxes import in_eights
from tests.ops.conv_block.triton.test_conv_block import run
from tests.ops.triton.cases import CASES

KINDS = [
    "2d", "2d-strided", "2d-dilated-dead-taps", "2d-concat", "2d-transposed-concat", "3d", "3d-transposed",
    "3d-strided", "2d-large-mean", "one-place",
]  # fmt: skip
WORK = tiles.Work(rows=8192, columns=128, depth=6912, operands=(1, 1), itemsize=2, splits_sums=True)


@pytest.fixture
def shared(monkeypatch) -> list[int]:
    """Every written map's forward and dgrad have three programs per tile. Returns the number of each."""
    monkeypatch.setattr(activate_first, "LEAST_CHANNELS", 16)
    monkeypatch.setattr(tiles, "BOX_TILES", (tiles.Tile(16, 16, 16, 4, 2),))
    found: list[int] = []

    def splits(tile: tiles.Tile, work: tiles.Work) -> int:
        if work.splits_sums:
            found.append(3)
        return 3 if work.splits_sums else 1

    monkeypatch.setattr(two_stages.tiles, "splits", splits)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_the_results_are_the_references(name, shared):
    run(in_eights(CASES[name]), torch.bfloat16)
    assert len(shared) >= 2


def test_float16_with_several_chunks_of_channels(shared, monkeypatch):
    """27 steps for four programs, which start at any tap and chunk. Both launches cut 72 columns differently."""
    monkeypatch.setattr(two_stages, "REST_COLUMNS", 16)
    monkeypatch.setattr(tiles, "WRITTEN_TILES", (tiles.Tile(32, 32, 16, 4, 2),))
    monkeypatch.setattr(two_stages.tiles, "splits", lambda tile, work: 4 if work.splits_sums else 1)
    run(in_eights(CASES["2d"])._replace(channels=(48,), out_channels=72), torch.float16)


@pytest.mark.skipif(not interpreter.interpreting(), reason="launches are counted in the interpreter.")
def test_both_launches_run(shared):
    with interpreter.launches() as names:
        run(in_eights(CASES["2d"]), torch.bfloat16)
    assert (names.count("conv_fwd_kernel"), names.count("conv_dgrad_kernel")) == (2, 2)


def test_few_tiles_share_sums_and_many_do_not():
    tile = tiles.Tile(256, 128, 64, 8, 3)
    assert tiles.splits(tile, WORK) == 4  # 32 tiles for 132 multiprocessors
    assert tiles.splits(tile, WORK._replace(rows=131072)) == 1
    assert tiles.splits(tile, WORK._replace(splits_sums=False)) == 1
    assert tiles.splits(tile, WORK._replace(depth=576)) == 1  # nine steps


def test_the_second_launch_has_its_price():
    assert tiles.sums_seconds(WORK, 1) == 0
    near, far = tiles.sums_seconds(WORK, 4), tiles.sums_seconds(WORK, 8)
    assert tiles.LAUNCH < near < far / 2  # more than L2 keeps


def test_dead_taps_count_as_no_steps():
    axis = Axis(1, 1, 8, 1, ((3, 0, -8),))
    gather = Gather((Axis(1, 1, 1, 1, ((1, 0, 0),)), axis, axis), (1, 3, 3), (32, 16, 16), (32, 16, 16))
    assert tiles.live_share_of(gather) == pytest.approx(4 / 9)
