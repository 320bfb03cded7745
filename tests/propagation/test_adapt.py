"""Adapting to a clip: examples come from known pixels alone, held-out ones decide, and the seed decides the rest."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fastinpaint.propagation import Adaptation, adapt, propagate
from fastinpaint.propagation.blend import DOUBT, blend, shipped
from fastinpaint.propagation.candidates import NAMES, PAIRS, SPATIAL, Candidates
from fastinpaint.propagation.likeness import likeness
from fastinpaint.propagation.mixing import Examples, Net, fit, mean_error, mirrored_in_time

SIDE, FRAMES = 40, 9


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few copies and steps, so that the tests are fast."""
    monkeypatch.setattr(adapt, "COPIES", (3, 5))
    monkeypatch.setattr(adapt, "STEPS", 20)


def candidates(count: int = 50) -> Candidates:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (len(NAMES), count, 3)).astype(np.uint8)
    present = rng.random((len(NAMES), count)) < 0.7
    present[: len(SPATIAL)] = True
    features = rng.normal(1, 2, (count, len(shipped()["mean"]))).astype(np.float32)
    return Candidates(values, present, features)


def test_the_trained_network_is_the_one_that_blends() -> None:
    given = candidates()
    net = Net.of(shipped())
    with torch.no_grad():
        logarithm, expected = net(torch.from_numpy(given.features), torch.from_numpy(given.present).T)
    share = logarithm.exp()
    mixed = blend(given)
    value = np.einsum("nk,knc->nc", share.numpy(), given.values)
    carried = share[:, len(SPATIAL) :].sum(1) * torch.exp(-torch.expm1(expected.clamp(0, 5)) / DOUBT)
    assert np.allclose(carried.numpy(), mixed.confidence, atol=1e-4)
    assert np.abs(value - mixed.value).max() < 0.01
    assert all(np.array_equal(array, shipped()[name]) for name, array in net.arrays().items())


def test_no_candidate_is_ignored() -> None:
    rng = np.random.default_rng(0)
    net = Net.of(shipped())
    features = net.mean + net.std * torch.from_numpy(rng.normal(0, 1, (4000, len(net.mean)))).float()
    with torch.no_grad():
        logarithm, _ = net(features, torch.ones(4000, len(NAMES), dtype=torch.bool))
    assert (logarithm.exp().mean(0) > 0.01).all()


def test_a_mirror_in_time_is_its_own_inverse() -> None:
    for order in mirrored_in_time():
        assert sorted(order) == list(range(len(order)))
        assert [order[i] for i in order] == list(range(len(order)))
    assert len(mirrored_in_time()[1]) == len(shipped()["mean"])
    assert len(PAIRS) == len({tuple(sorted(pair)) for pair in PAIRS})


def test_a_fit_learns_which_candidate_is_right() -> None:
    given = candidates(600)
    values = torch.from_numpy(given.values.astype(np.float32)).permute(1, 0, 2)
    data = Examples(values, torch.from_numpy(given.present).T, torch.from_numpy(given.features), values[:, 1])
    net = Net.of(shipped())
    before = mean_error(net, data)
    fit(net, data, torch.ones(600), steps=60, rate=1e-2, seed=0)
    assert mean_error(net, data) < 0.3 * before


def clip() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(3).normal(0, 1, (SIDE, 2 * SIDE, 3)).astype(np.float32)
    wide = np.rint(128 + cv2.GaussianBlur(noise, (0, 0), 2) * 300).clip(0, 255).astype(np.uint8)
    video = np.stack([wide[:, t : t + SIDE] for t in range(FRAMES)])
    mask = np.zeros(video.shape[:3], bool)
    mask[:, 4:14, 5:17] = True
    return video, mask


def gathered() -> tuple[np.ndarray, np.ndarray, list[adapt.Copy]]:
    video, mask = clip()
    video[mask] = 0
    starts = np.arange(FRAMES) == 0
    return video, mask, adapt.gather(video, mask, starts, range(6), np.random.default_rng(0))


def hidden(mask: np.ndarray, copy: adapt.Copy) -> np.ndarray:
    """Every pixel that a copy of the hole covers."""
    covered = np.zeros_like(mask)
    for t, y, x in np.argwhere(mask):
        if 0 <= y + copy.down < SIDE and 0 <= x + copy.right < SIDE:
            covered[t, y + copy.down, x + copy.right] = True
    return covered


def test_examples_are_known_pixels_of_copies_of_the_hole() -> None:
    video, mask, copies = gathered()
    assert len(copies) == 6
    assert len({(copy.down, copy.right) for copy in copies}) > 3
    for copy in copies:
        place = copy.frames, copy.rows, copy.columns
        assert not mask[place].any()
        assert hidden(mask, copy)[place].all()
        assert np.array_equal(copy.examples.truth.numpy(), video[place])


def test_no_pixel_that_is_held_out_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    _, mask, copies = gathered()
    places = [torch.from_numpy(np.stack([c.frames, c.rows, c.columns], 1)).float() for c in copies]
    copies = [c._replace(examples=c.examples._replace(truth=at)) for c, at in zip(copies, places, strict=True)]
    given: list[np.ndarray] = []

    def spy(data: Examples, weights: torch.Tensor, seed: int) -> Net:
        given.append(data.truth.numpy().astype(int))
        return Net.of(shipped())

    monkeypatch.setattr(adapt, "learnt", spy)
    tried = adapt.tried(copies, mask, 0)
    assert np.array_equal(tried.before, tried.after)
    assert len(given) == adapt.FOLDS
    left_out = 0
    for fold, learnt in enumerate(given):
        held_out = np.logical_or.reduce([hidden(mask, copy) for copy in copies[fold :: adapt.FOLDS]])
        assert len(learnt)
        assert not held_out[tuple(learnt.T)].any()
        others = [at for n, at in enumerate(places) if n % adapt.FOLDS != fold]
        free = [int((~held_out[tuple(at.numpy().astype(int).T)]).sum()) for at in others]
        assert len(learnt) == sum(free)
        left_out += sum(map(len, others)) - sum(free)
    assert left_out  # copies overlap, so this says something


def test_a_gain_counts_once_it_is_surely_one() -> None:
    before, counts = np.full(8, 10.0), np.ones(8)
    assert adapt.strength(adapt.HeldOut(before, before, counts)) == 0
    assert adapt.strength(adapt.HeldOut(before, before - 5, counts)) == 1
    assert adapt.strength(adapt.HeldOut(before, before - 0.2, counts)) == pytest.approx(0.02 * adapt.SLOPE)
    lucky = before - np.array([3.0, -1, 0.1, 0, -1, 1, -0.5, 0])
    assert lucky.mean() < 9.95
    assert adapt.strength(adapt.HeldOut(before, lucky, counts)) == 0
    unlike = np.where(np.arange(8) == 0, 0.0, 1.0)  # the lucky copy is not like the hole
    assert adapt.strength(adapt.HeldOut(before, before - 5 * (1 - unlike), unlike)) == 0


def test_pixels_count_by_how_many_of_the_hole_are_like_them() -> None:
    rng = torch.Generator().manual_seed(0)
    known = torch.randn(4000, 3, generator=rng)
    wanted = torch.randn(4000, 3, generator=rng) + torch.tensor([1.0, 0, 0])
    weights = likeness(known, wanted, 0)
    mean = (weights[:, None] * known).sum(0) / weights.sum()
    assert mean.tolist() == pytest.approx([1, 0, 0], abs=0.25)
    assert torch.equal(weights, likeness(known, wanted, 0))
    alike = likeness(known, known + 0, 0)
    assert (alike - 1).abs().max() < 0.1


def test_the_seed_decides_and_what_the_hole_holds_does_not() -> None:
    video, mask = clip()
    other = video.copy()
    other[mask] = 255
    notes: list[str] = []
    first, second = (propagate(v, mask, Adaptation(5, notify=notes.append)) for v in (video, other))
    assert np.array_equal(first.video, second.video)
    assert np.array_equal(first.confidence, second.confidence)
    assert notes[0] == notes[1]
    assert "held-out known pixels" in notes[0]


def test_frames_from_the_middle_of_a_scene_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "FRAMES", 6)
    monkeypatch.setattr(adapt, "SHORTEST", 6)
    video, mask = clip()
    starts = np.arange(FRAMES) == 0
    part = slice(1, 7)  # the middle six of nine
    notes: list[str] = []
    Adaptation(1, notify=notes.append).weights(video, mask, starts)
    Adaptation(1, notify=notes.append).weights(video[part], mask[part], starts[:6])
    assert notes[0].startswith("adapt: the error on held-out known pixels went from")
    assert notes[0] == notes[1]
    assert starts.sum() == 1


def test_adapted_weights_that_are_no_better_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    video, mask = clip()

    def spoil(net, data, weight, steps, rate, seed):
        with torch.no_grad():
            net.last.bias[:-1] = torch.tensor([30.0, *[0.0] * (len(NAMES) - 1)])

    notes: list[str] = []
    monkeypatch.setattr(adapt, "fit", spoil)
    filled = propagate(video, mask, Adaptation(5, notify=notes.append))
    assert np.array_equal(filled.video, propagate(video, mask).video)
    assert notes[0].endswith("so the fill is as without adapting.")
    monkeypatch.setattr(adapt, "strength", lambda held_out: 0.5)
    filled = propagate(video, mask, Adaptation(5, notify=notes.append))
    assert not np.array_equal(filled.video, propagate(video, mask).video)
    assert notes[1].endswith("so the weights go 50% of the way to the adapted ones.")


def test_a_hole_without_room_beside_it_says_so() -> None:
    video, mask = clip()
    mask[:] = True
    notes: list[str] = []
    propagate(video, mask, Adaptation(5, notify=notes.append))
    assert notes == ["adapt: no place for another hole of that shape, so the fill is as without adapting."]


def test_the_budget_decides_frames_and_copies() -> None:
    hole = np.zeros((100, 200, 300), bool)
    hole[:, 50:100, 50:150] = True
    frames, copies = Adaptation(60)._plan(hole)
    assert (frames.stop - frames.start, copies) == (adapt.FRAMES, adapt.COPIES[1])
    small, few = Adaptation(1)._plan(hole)
    assert (small.stop - small.start, few) == (adapt.SHORTEST, adapt.COPIES[0])
