"""A correction is used on a clip where holes over its known pixels say that it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinpaint.inference import Settings, complete
from fastinpaint.inference.trial import helps
from fastinpaint.propagation import propagate

TRUTH = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)


def window() -> list[tuple[np.ndarray, np.ndarray]]:
    doubt = np.zeros((48, 64), np.float32)
    doubt[10:24, 10:30] = 1
    return [(TRUTH, doubt)] * 5


def test_what_knows_the_truth_helps_and_what_changes_nothing_or_spoils_does_not() -> None:
    def spoiled(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        return [np.where(doubt[..., None] > 0, 255 - frame, frame) for frame, doubt in pairs]

    assert helps(lambda pairs: [TRUTH for _ in pairs], window())
    assert not helps(lambda pairs: [frame for frame, _ in pairs], window())
    assert not helps(spoiled, window())


def test_a_few_lucky_places_are_not_enough() -> None:
    calls = 0

    def moved(frame: np.ndarray, share: float) -> np.ndarray:
        return (frame + share * (TRUTH - frame.astype(np.float32))).clip(0, 255).astype(np.uint8)

    def lucky(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        nonlocal calls
        calls += 1
        return [moved(frame, 1.0 if calls == 1 else -0.02) for frame, _ in pairs]

    assert not helps(lucky, window())
    assert calls > 3
    assert helps(lambda pairs: [moved(frame, 1 / calls - 0.02) for frame, _ in pairs], window())  # the same gain in all


def test_a_hole_without_room_for_a_copy_is_corrected() -> None:
    doubt = np.ones((48, 64), np.float32)
    assert helps(lambda pairs: [frame for frame, _ in pairs], [(TRUTH, doubt)])


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
