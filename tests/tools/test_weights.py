"""The draws that the correction network is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastinpaint.data.synthetic import synthetic_clip
from tools.quality.measure import HELD_OUT
from tools.weights import draws
from tools.weights.holes import MIXTURE, STILLS


@pytest.mark.parametrize("kind", [*MIXTURE, *STILLS])
def test_every_frame_has_a_hole_and_something_around_it(kind: str) -> None:
    make = {**MIXTURE, **STILLS}[kind][1]
    for seed in range(20):
        holes = make(5, 40, np.random.default_rng(seed))
        assert holes.shape == (5, 40, 40)
        assert set(np.unique(holes)) == {0, 1}
        share = holes.mean((1, 2))
        assert ((share > 0) & (share < 0.75)).all()
        moves = not np.array_equal(holes[0], holes[-1])
        assert moves == (kind in ("moving rectangle", "moving object", "rectangles", "strokes")) or kind == "strokes"


@pytest.mark.parametrize("mixture", [MIXTURE, STILLS])
def test_the_shares_are_of_a_whole(mixture: dict) -> None:
    assert sum(share for share, _ in mixture.values()) == pytest.approx(1)


def test_a_draw_is_known_outside_its_hole_and_has_the_truth_there() -> None:
    frames = synthetic_clip(0, 40, 140)
    for make in (draws.make_draw, draws.make_stills):
        kind, draw = make(frames, np.random.default_rng(1))
        assert (kind == "stills") == (make is draws.make_stills)
        assert draw.shape == (draws.FRAMES, draws.SIDE, draws.SIDE, 7)
        known = draw[..., 6] == 0
        assert np.array_equal(draw[known][:, :3], draw[known][:, 3:6])
        assert not np.array_equal(draw[~known][:, :3], draw[~known][:, 3:6])


def test_clips_held_out_or_validated_on_are_not_drawn_from(tmp_path: Path) -> None:
    names = [*HELD_OUT, *draws.VALIDATION, "people/a.mkv", "licences/b.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert draws.training_clips(tmp_path) == ["people/a.mkv"]
    assert not set(HELD_OUT) & set(draws.VALIDATION)


def test_draws_are_made_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "FRAMES", 3)
    monkeypatch.setattr(draws, "decoded", lambda clips, name, folder: synthetic_clip(0, 20, 140))
    first = draws.make_draws(tmp_path, tmp_path / "out", "train", ["a"], 2, 0)
    arrays = [np.load(tmp_path / "out" / entry["file"]) for entry in first]
    (tmp_path / "out" / "train" / "00001.json").unlink()
    again = draws.make_draws(tmp_path, tmp_path / "out", "train", ["a"], 2, 0)
    assert json.dumps(first) == json.dumps(again)
    assert all(np.array_equal(np.load(tmp_path / "out" / e["file"]), a) for e, a in zip(again, arrays, strict=True))
    assert not np.array_equal(arrays[0], arrays[1])
