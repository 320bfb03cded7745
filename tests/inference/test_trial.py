"""A correction counts on a clip as far as copies of the hole over its known pixels say that it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinpaint.inference import Settings, complete
from fastinpaint.inference.trial import COPIES, ENOUGH, START, copies, displaced, strength_of
from fastinpaint.propagation import propagate

TRUTH = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
Pair = tuple[np.ndarray, np.ndarray]


def window() -> list[Pair]:
    doubt = np.zeros((48, 64), np.float32)
    doubt[10:34, 10:40] = 1
    return [(TRUTH, doubt)] * 5


def moved(frame: np.ndarray, share: float) -> np.ndarray:
    """The frame, that share of the way to the truth."""
    return np.rint(frame + share * (TRUTH - frame.astype(np.float32))).clip(0, 255).astype(np.uint8)


def test_the_strength_grows_with_the_gain_on_known_pixels() -> None:
    def strength(share: float) -> float:
        return strength_of(lambda pairs: [moved(frame, share) for frame, _ in pairs], window())

    found = [strength(share) for share in (-0.1, 0.0, 0.05, 0.5)]
    assert found[0] == 0
    assert found[1] == pytest.approx(START)
    assert START + 0.2 < found[2] < 0.65  # at most 0.2 + 8 * 0.05, less the standard error
    assert found[3] == 1


def test_a_few_lucky_places_are_not_enough() -> None:
    calls = 0

    def lucky(pairs: list[Pair]) -> list[np.ndarray]:
        nonlocal calls
        calls += 1
        return [moved(frame, 1.0 if calls == 1 else 0.0) for frame, _ in pairs]

    assert strength_of(lucky, window()) == pytest.approx(START, abs=0.02)
    assert calls == COPIES
    same = strength_of(lambda pairs: [moved(frame, 1 / COPIES) for frame, _ in pairs], window())  # the same gain in all
    assert same > START + 0.3


@pytest.mark.parametrize("size", [(6, 6), (24, 30), (30, 40)])
def test_a_copy_is_as_large_as_the_hole_and_hides_known_pixels_alone(size: tuple[int, int]) -> None:
    hole = np.zeros((48, 64), bool)
    hole[5 : 5 + size[0], 8 : 8 + size[1]] = True
    rng = np.random.default_rng(0)
    for hidden in (displaced(hole, rng) for _ in range(20)):
        assert hidden is not None
        assert not (hidden & hole).any()
        assert ENOUGH * hole.sum() <= hidden.sum() <= hole.sum()
        rows, columns = np.nonzero(hidden)
        assert np.ptp(rows) < size[0]
        assert np.ptp(columns) < size[1]


def test_copies_lie_in_all_parts_of_the_window_and_skip_frames_without_a_hole() -> None:
    whole = np.zeros((48, 64), np.float32)
    pairs = [(np.full((48, 64, 3), t, np.uint8), window()[0][1] if t % 2 else whole) for t in range(16)]
    found = copies(pairs, np.random.default_rng(0))
    assert len(found) == COPIES
    assert sorted({int(frame[0, 0, 0]) for frame, _, _ in found}) == list(range(1, 16, 2))


def test_without_room_for_a_copy_a_correction_counts_a_little() -> None:
    doubt = np.ones((48, 64), np.float32)
    assert strength_of(lambda pairs: [TRUTH for _ in pairs], [(TRUTH, doubt)]) == START
    assert strength_of(lambda pairs: [TRUTH for _ in pairs], [(TRUTH, np.zeros_like(doubt))]) == START


@pytest.mark.parametrize("level", [0.5, -3.0])
def test_a_clip_is_corrected_only_where_that_helps(level: float) -> None:
    class Grey(nn.Module):
        class config:
            fill = "propagated"

        def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return torch.where(mask > 0, level, video), video

    rng = np.random.default_rng(1)
    video = np.repeat(rng.integers(0, 256, (1, 40, 60, 3)).astype(np.uint8), 3, 0)  # grey is the best guess of noise
    mask = np.zeros(video.shape[:3], bool)
    mask[:, 8:20, 8:24] = True
    result = complete(Grey(), video, mask, Settings(frames=3, full_frame=True))
    plain = propagate(video, mask).video
    assert np.array_equal(result[~mask], video[~mask])
    assert np.array_equal(result, plain) == (level < 0)
