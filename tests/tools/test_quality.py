"""The figures of docs/quality.md: the committed rows, the tables made of them, and how they are measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.data.synthetic import synthetic_clip
from tools.quality import cases, floors, measure
from tools.quality.cases import clips_of
from tools.quality.floors import FLOORS, chosen
from tools.quality.masks import by_box, by_difference

PAGE = Path(__file__).parents[2] / "docs" / "quality.md"
ROWS = measure.read_rows(measure.COMMITTED)
FLOORS_FOUND = floors.read_floors(measure.COMMITTED_FLOORS)
CASES = [(name, kind) for kind in HOLE_KINDS for name in clips_of(kind)]


def test_every_clip_and_kind_of_hole_has_a_row_and_floors() -> None:
    assert sorted(ROWS) == sorted(CASES) == sorted(FLOORS_FOUND)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{Path(case[0]).stem} {case[1]}")
def test_no_fill_is_much_above_the_better_of_telea_and_propagation_alone(case: tuple[str, str]) -> None:
    assert measure.above(ROWS[case]) <= measure.ALLOWED


def test_a_fill_that_is_4_per_cent_above_is_found() -> None:
    scores = {
        fill: {"mean error": error} for fill, error in (("Telea", 10), ("propagation", 12), ("with network", 10.4))
    }
    assert measure.above(scores) == pytest.approx(1.04)


@pytest.mark.parametrize("name", ["table", "floors"])
def test_the_page_has_the_tables_of_the_committed_rows(name: str) -> None:
    tables = {"table": measure.table(ROWS), "floors": floors.table(FLOORS_FOUND)}
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert shown
    assert shown[1] == tables[name]


def test_floors_fall_with_what_a_candidate_is_chosen_for() -> None:
    mask = np.zeros((2, 16, 24), bool)
    mask[:, [0, 0, 8], [8, 9, 0]] = True  # two pixels of one block, and one of another
    first = np.array([[5, 5, 5], [1, 9, 6], [9, 9, 1]], float)
    second = np.array([[5, 5, 5], [7, 7, 4], [np.inf, 0, 7]])  # the first candidate stands in where one is absent
    found = chosen([first, second], mask)
    assert found["fill"] == 5
    assert [found[name] * 6 for name in FLOORS] == pytest.approx([30, 15 + 12, (10 + 1) + (5 + 4), 7 + 9])


def test_a_row_is_measured_once_and_extended_by_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "SIZE", 32)
    reads: list[str] = []

    def clip(path: Path, frames: int, size: int) -> np.ndarray:
        reads.append(path.name)
        return synthetic_clip(0, 4, size)

    monkeypatch.setattr(cases, "read_clip", clip)
    wanted = [("a/b.mp4", "strokes")]
    measure.write_rows(tmp_path, tmp_path, wanted, ["Telea"])
    measure.write_rows(tmp_path, tmp_path, wanted, ["Telea", "propagation"])
    count = len(reads)
    measure.write_rows(tmp_path, tmp_path, wanted, ["propagation", "Telea"])
    assert len(reads) == count
    rows = measure.read_rows(tmp_path / "rows.jsonl")
    assert set(rows["a/b.mp4", "strokes"]) == {"source", "Telea", "propagation"}
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [set(line["scores"]) for line in lines] == [{"source", "Telea"}, {"source", "Telea", "propagation"}]
    assert lines[0]["scores"]["Telea"] == lines[1]["scores"]["Telea"]


def test_a_box_moves_between_its_key_frames_and_bounds_a_difference() -> None:
    video = np.zeros((5, 40, 60, 3), np.uint8)
    video[2:, 10:20, 30:40] = 200  # in most frames, so the first two differ from the still scene
    boxes = {0: (0, 5, 20, 20), 4: (40, 5, 20, 20)}
    masks = by_box(boxes)(video)
    assert [int(np.flatnonzero(mask.any(0))[0]) for mask in masks] == [0, 10, 20, 30, 40]
    assert masks.sum((1, 2)).tolist() == [400] * 5
    assert not by_difference(boxes, 18, 1)(video).any()
    found = by_difference({0: (25, 5, 20, 20)}, 18, 1)(video)
    assert found[:2, 10:20, 30:40].all()
    assert found.sum((1, 2)).tolist() == [140, 140, 0, 0, 0]
