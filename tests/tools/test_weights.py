"""The draws that the correction network is trained on, and its widening."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.models import ModelConfig, TwoDCN
from tools.quality.cases import HELD_OUT, VALIDATION
from tools.weights import draws
from tools.weights.widen import widened


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
    names = [*HELD_OUT, *VALIDATION, "people/a.mkv", "licences/b.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert draws.training_clips(tmp_path) == ["people/a.mkv"]
    assert not set(HELD_OUT) & set(VALIDATION)


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


def test_frames_of_clips_are_small_and_shared_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "decoded", lambda clips, name, folder: synthetic_clip(0, 5, 300))
    names = ["everyday/a.mp4", "people/intel_asl_a.mkv", "people/intel_asl_b.mkv"]
    entries = draws.small_frames(tmp_path, tmp_path, names)
    assert [entry["share"] for entry in entries] == pytest.approx([0.75, 0.125, 0.125])
    assert [entry["clip"] for entry in entries] == names
    assert np.load(tmp_path / entries[0]["file"]).shape == (5, draws.STILL_SIDE, draws.STILL_SIDE, 3)


@torch.no_grad()
def test_a_widened_network_is_the_same_function_until_noise_lets_twins_part() -> None:
    torch.manual_seed(0)
    model = TwoDCN(ModelConfig(width=0.0625, fill="propagated"))
    model(torch.rand(4, 4, 16, 16))  # running statistics that differ by channel
    model.eval()
    frames = torch.rand(2, 4, 16, 16)
    wide, shaken = widened(model, 0.0).eval(), widened(model, 0.02).eval()
    assert wide.config.width == 2 * model.config.width
    expected = model(frames)
    assert torch.allclose(wide(frames), expected, atol=1e-5)
    change = (shaken(frames) - expected).abs().mean() / expected.abs().mean()
    assert 1e-4 < float(change) < 0.2
    first, second = shaken.state_dict()["layers.5.conv.weight"].chunk(2)
    assert not torch.allclose(first, second, rtol=0.01)
