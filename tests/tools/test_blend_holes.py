"""The draws that the mixing network learns from: a sliding box, pieces of clips, and what is kept of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastinpaint.propagation.blend import shipped
from fastinpaint.propagation.candidates import NAMES
from fastinpaint.propagation.mixing import Net, fit, joined, mean_error
from tools.blend.draws import FRAMES, HOLES, WHOLE_HOLES, box, gather, piece, shares, whole, with_thing
from tools.blend.train import FURTHER_RATE, load, report, train


@pytest.mark.parametrize("seed", range(4))
def test_a_sliding_box_keeps_its_size_and_uncovers_what_it_hid(seed: int) -> None:
    hole = box(40, 64, np.random.default_rng(seed)) > 0
    sizes = hole.sum((1, 2))
    assert 0.08 < sizes.min() / 64**2 <= sizes.max() / 64**2 < 0.27
    assert hole.any(0).sum() > 1.2 * sizes.max()
    assert not np.array_equal(hole[0], hole[20])


@pytest.mark.parametrize("kind", [*HOLES, *WHOLE_HOLES])
def test_every_kind_has_a_hole_in_every_frame(kind: str) -> None:
    hole = (HOLES | WHOLE_HOLES)[kind][1](5, 48, np.random.default_rng(0))
    assert hole.shape == (5, 48, 48)
    assert hole.any((1, 2)).all()
    assert not hole.all((1, 2)).any()


def test_pieces_move_and_stand_still_and_repeat_by_their_seed() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 256, (1, 60, 80, 3)).astype(np.uint8), 50, 0)
    pieces = [piece(still, 32, np.random.default_rng(seed)) for seed in range(30)]
    assert all(FRAMES[0] <= len(found) <= FRAMES[1] and found.shape[1:] == (32, 32, 3) for found in pieces)
    copies = sum((found == found[0]).all() for found in pieces)
    assert 5 < copies < 25  # of a clip that stands still: no moving square, no flicker, no noise
    assert np.array_equal(piece(still, 32, np.random.default_rng(3)), pieces[3])


def test_a_whole_square_is_the_middle_of_frames_one_after_another() -> None:
    clip = np.zeros((50, 40, 60, 3), np.uint8)
    clip[:, :, 10:50] = np.arange(50, dtype=np.uint8)[:, None, None, None] + 1
    found = whole(clip, 20, np.random.default_rng(0))
    assert FRAMES[0] <= len(found) <= FRAMES[1]
    assert found.shape[1:] == (20, 20, 3)
    assert np.array_equal(found[:, 0, 0, 0], np.arange(len(found)) + found[0, 0, 0, 0])
    assert (found == found[:, :1, :1]).all()
    assert found.min() > 0  # nothing beside the middle square


def test_shares_of_clips_add_up_and_keep_groups_at_theirs() -> None:
    names = ["people/intel_asl_a.mkv", "people/intel_asl_b.mkv", "everyday/mdn_tears_of_steel.webm", "scenes/x.mp4"]
    assert shares(names) == pytest.approx([0.09, 0.09, 0.3, 0.52])


def test_a_kept_draw_can_be_learnt_from(tmp_path) -> None:
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 256, (1, 40, 40, 3)).astype(np.uint8), 20, 0)
    hole = np.zeros((20, 40, 40), bool)
    for t in range(20):
        hole[t, 10:22, t : t + 12] = True
    path = tmp_path / "00000_box_noise.npz"
    np.savez(path, **gather(video, hole, rng))
    data = load(path)
    count = len(data.truth)
    assert data.values.shape == (count, len(NAMES), 3)
    assert data.features.shape == (count, len(shipped()["mean"]))
    still = NAMES.index("still past")
    shown = data.present[:, still]
    assert shown.any()
    assert torch.equal(data.values[shown, still], data.truth[shown])  # a still clip: carried pixels are the truth
    torch.manual_seed(0)
    net = Net(data.features.mean(0), data.features.std(0) + 1e-3)
    before = mean_error(net, data)
    fit(net, joined([data, data]), torch.ones(2 * count), steps=30, rate=1e-2, seed=0)
    assert mean_error(net, data) < 0.7 * before
    further = train([data], steps=5, start=shipped()).arrays()
    moved = max(float(np.abs(further[name] - old).max()) for name, old in shipped().items())
    assert 0 < moved <= 5 * FURTHER_RATE  # half of what five steps of Adam can move
    table = report({"fitted": net}, {path.name: data})
    assert "| fitted |" in table
    assert "best candidate" in table


def test_a_thing_moves_with_its_hole_and_is_all_that_changes() -> None:
    rng = np.random.default_rng(1)
    video = np.full((6, 48, 48, 3), 40, np.uint8)
    texture = rng.integers(150, 256, (48, 48, 3)).astype(np.uint8)
    hole = np.zeros((6, 48, 48), bool)
    for t in range(6):
        hole[t, 20:30, 8 + 4 * t : 18 + 4 * t] = True
    changed = [with_thing(video, hole, texture, np.random.default_rng(seed)) for seed in range(12)]
    beyond = [float((found != video).any(3)[~hole].mean()) for found in changed]
    assert max(beyond) > 3 * min(beyond)  # some are held by an arm
    for found in changed:
        assert (found[hole] > 60).all()
        inner = [found[t, 22:28, 10 + 4 * t : 16 + 4 * t] for t in range(6)]
        assert all(np.abs(part.astype(int) - inner[0]).max() <= 1 for part in inner)
    assert (video == 40).all()
