"""Views made on the spot for training a correction: new holes on new pieces of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastinpaint.errors import UserError
from fastinpaint.models.weights import load_weights
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.distributed import World
from fastinpaint.training.draws import DrawBatches, PropagatedDraws
from fastinpaint.training.fresh import Frames, filled, fresh_view, hole_of_view, piece
from tests.training.test_draws import CONFIG, draws, unbroken  # noqa: F401

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)


def test_a_view_is_known_outside_its_hole_and_differs_from_every_other() -> None:
    views = [fresh_view(FRAME, 32, np.random.default_rng(seed)) for seed in range(40)]
    for view in views:
        assert view.shape == (1, 32, 32, 7)
        assert view.dtype == np.uint8
        truth, fill, doubt = view[0, ..., :3], view[0, ..., 3:6], view[0, ..., 6]
        assert np.array_equal(truth[doubt == 0], fill[doubt == 0])
        assert np.abs(truth[doubt == 255].astype(int) - fill[doubt == 255]).mean() > 5
        assert 0.005 < (doubt > 0).mean() < 0.6
    assert len({view.tobytes() for view in views}) == 40
    assert np.array_equal(views[3], fresh_view(FRAME, 32, np.random.default_rng(3)))


@pytest.mark.parametrize("seed", range(6))
def test_a_fill_knows_nothing_of_what_is_hidden(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, hole = piece(FRAME, 64, rng), hole_of_view(64, rng)
    other = np.where(hole[..., None], 255 - truth, truth)
    one, two = (filled(pixels, hole, np.random.default_rng(seed)) for pixels in (truth, other))
    assert np.array_equal(one, two)
    assert np.array_equal(one[~hole], truth[~hole])


def test_pieces_lie_inside_the_frame_but_for_their_turn() -> None:
    frame = np.full((60, 90, 3), 100, np.uint8)
    frame[:2], frame[-2:], frame[:, :2], frame[:, -2:] = 0, 0, 0, 0
    pieces = np.stack([piece(frame, 32, np.random.default_rng(seed)) for seed in range(50)])
    assert (pieces == 100).mean() > 0.9


def test_clips_are_drawn_by_their_shares() -> None:
    clips = [np.full((3, 8, 8, 3), value, np.uint8) for value in (10, 200)]
    frames, rng = Frames(clips, np.array([0.25, 0.75])), np.random.default_rng(0)
    assert 0.7 < np.mean([frames.draw(rng)[0, 0, 0] == 200 for _ in range(400)]) < 0.8


def test_a_share_of_the_slots_is_fresh(draws: Path) -> None:  # noqa: F811
    samples, world = PropagatedDraws(draws, "train", 1, 32), World(0, 1, torch.device("cpu"))
    plain, mixed, fresh = (
        DrawBatches(samples, TrainConfig.from_dict({"batch": 16, "fresh": share}, CONFIG), world)
        for share in (0.0, 0.5, 1.0)
    )
    for step in range(2):
        own = [np.array_equal(a, b) for a, b in zip(mixed[step][0][0], fresh[step][0][0], strict=True)]
        assert 2 < sum(own) < 14
        assert torch.equal(fresh[step][0], fresh[step][0])
    assert not torch.equal(plain[0][0], fresh[0][0])


def test_draws_without_frames_cannot_give_fresh_views(draws: Path) -> None:  # noqa: F811
    samples = PropagatedDraws(draws, "train", 1, 32)
    samples.still = []
    with pytest.raises(UserError, match="no frames of clips"):
        DrawBatches(samples, TrainConfig.from_dict({"fresh": 0.5}, CONFIG), World(0, 1, torch.device("cpu")))


def test_a_run_begins_with_the_weights_of_a_file(draws: Path, tmp_path: Path, unbroken: Path) -> None:  # noqa: F811
    first = unbroken / "last.safetensors"
    own = {"start": str(first), "lr": 0.0, "steps": 1, "validate_every": 0}
    train(TrainConfig.from_dict(own, CONFIG), draws, tmp_path / "run")
    was, now = load_weights(first), load_weights(tmp_path / "run" / "last.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(was.parameters(), now.parameters(), strict=True))
    with pytest.raises(UserError, match=r"start: .* another network"):
        train(TrainConfig.from_dict({**own, "model": {"width": 0.125}}, CONFIG), draws, tmp_path / "other")


@pytest.mark.parametrize("start", [["weights"], 3, None])
def test_a_start_that_is_no_text_is_refused(start: object) -> None:
    with pytest.raises(UserError, match=r"^start: must be a text, got "):
        TrainConfig.from_dict({"start": start}, CONFIG)
