"""The memory of measured tiles: what is asked for, what is remembered, how it is kept."""

from __future__ import annotations

import json

import pytest
import torch

from fastinpaint.ops import triton_support
from fastinpaint.ops.conv_block import triton_launch as launch
from fastinpaint.ops.conv_block import triton_tune as tune

WORK = launch.Work(rows=32768, columns=256, depth=2304, operands=(1, 1), itemsize=2)


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_support, "INTERPRETING", False)
    monkeypatch.setattr(tune, "memory_file", lambda: tmp_path / "cache" / "tiles.json")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tune, "fastest", lambda tiles, run: run(tiles[-1]) and tiles[-1])
    tune._memory.cache_clear()
    yield tune.memory_file()
    tune._memory.cache_clear()


def choose(calls: list, shape=(1,)) -> launch.Tile:
    return tune.choose("fwd", launch.GATHER_TILES, WORK, shape, lambda tile: calls.append(tile) or True)


def test_measures_once_a_shape_and_remembers_on_disk(memory, monkeypatch):
    monkeypatch.setenv("FASTINPAINT_TUNE", "1")
    calls: list = []
    tile = choose(calls)
    assert tile == launch.MEASURED_ONLY["fwd"][0]  # the fake measurement takes the last
    assert tile != launch.best(launch.GATHER_TILES, WORK)
    assert choose(calls) == tile
    assert len(calls) == 1
    choose(calls, shape=(2,))
    assert len(calls) == 2
    tune._memory.cache_clear()
    monkeypatch.delenv("FASTINPAINT_TUNE")
    assert choose(calls) == tile
    assert len(calls) == 2
    assert len(json.loads(memory.read_text())) == 2
    assert list(memory.parent.iterdir()) == [memory]


def test_never_measures_unless_asked(memory, monkeypatch):
    monkeypatch.delenv("FASTINPAINT_TUNE", raising=False)
    calls: list = []
    assert choose(calls) == launch.best(launch.GATHER_TILES, WORK)
    assert not calls
    assert not memory.exists()


def test_deterministic_flag_beats_memory(memory, monkeypatch):
    monkeypatch.setenv("FASTINPAINT_TUNE", "1")
    choose([])
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    assert choose([]) == launch.best(launch.GATHER_TILES, WORK)


def test_a_broken_memory_counts_as_none_and_other_writers_stay(memory):
    memory.parent.mkdir()
    memory.write_text("{")
    tune._save(memory, {"mine": [1]})
    memory.write_text(json.dumps({"theirs": [2]}))
    tune._save(memory, {"mine": [1]})
    assert json.loads(memory.read_text()) == {"mine": [1], "theirs": [2]}


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("operands", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("columns", [3, 16, 64, 256, 512])
def test_every_pass_has_a_tile_that_fits(columns, operands, itemsize):
    for tiles, splits in ((launch.GATHER_TILES, False), (launch.WGRAD_TILES, True)):
        for rows in (3, 64, 8192):
            work = launch.Work(rows, columns, 2304, operands, itemsize, splits)
            tile = min(launch.candidates(tiles, work), key=lambda t: launch.expected_seconds(t, work))
            assert launch.shared_bytes(tile, work) <= launch.SHARED_BUDGET
            assert tile.n <= max(16, 2 * columns)
