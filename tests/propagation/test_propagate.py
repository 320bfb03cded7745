"""Holes are filled with what other frames show; known pixels stay; what a hole holds has no influence."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fastinpaint.data.holes import make_holes
from fastinpaint.metrics import hole_l1, nearest_in_time, telea
from fastinpaint.propagation import propagate, propagate_stream

SIDE, FRAMES = 48, 10


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.rint(128 + smooth / smooth.std() * 45).clip(0, 255).astype(np.uint8)


def pan(seed: int, speed: float) -> np.ndarray:
    """A camera that moves `speed` pixels a frame to the right over a texture."""
    wide = texture(seed, SIDE, SIDE * 3)
    shifts = [np.float32([[1, 0, -5 - speed * t], [0, 1, 0]]) for t in range(FRAMES)]
    return np.stack([cv2.warpAffine(wide, shift, (SIDE, SIDE), flags=cv2.INTER_CUBIC) for shift in shifts])


def moving_hole(side: int = 12, speed: int = 5) -> np.ndarray:
    mask = np.zeros((FRAMES, SIDE, SIDE), bool)
    for t in range(FRAMES):
        left = 2 + (speed * t) % (SIDE - side - 2)
        mask[t, 16 : 16 + side, left : left + side] = True
    return mask


def test_known_pixels_stay_and_are_certain() -> None:
    video, mask = pan(0, 1.3), moving_hole()
    filled = propagate(video, mask)
    assert np.array_equal(filled.video[~mask], video[~mask])
    assert (filled.confidence[~mask] == 1).all()
    assert (filled.confidence[mask] < 1).all()
    assert (filled.confidence >= 0).all()


def test_what_a_hole_holds_has_no_influence() -> None:
    video, mask = pan(1, 0.7), moving_hole()
    other = video.copy()
    other[mask] = 255
    first, second = propagate(video, mask), propagate(other, mask)
    assert np.array_equal(first.video, second.video)
    assert np.array_equal(first.confidence, second.confidence)


def test_a_still_shot_is_copied() -> None:
    video, mask = np.repeat(texture(2, SIDE, SIDE)[None], FRAMES, 0), moving_hole()
    filled = propagate(video, mask)
    assert hole_l1(filled.video, video, mask) < 1.0
    assert filled.confidence[mask].mean() > 0.7


def test_a_pan_is_followed_between_pixels() -> None:
    video, mask = pan(3, 1.4), moving_hole()
    error = hole_l1(propagate(video, mask).video, video, mask)
    assert error < 0.5 * hole_l1(nearest_in_time(video, mask), video, mask)
    assert error < 0.5 * hole_l1(telea(video, mask), video, mask)


def test_the_flow_follows_a_fast_pan_and_not_the_strokes_that_hide_it() -> None:
    video = pan(1, 5.0)
    mask = make_holes("strokes", FRAMES, SIDE, SIDE, np.random.default_rng(1)) > 0
    assert hole_l1(propagate(video, mask).video, video, mask) < 0.4 * hole_l1(telea(video, mask), video, mask)


def test_what_no_frame_shows_has_no_confidence() -> None:
    video, mask = np.repeat(texture(4, SIDE, SIDE)[None], FRAMES, 0), np.zeros((FRAMES, SIDE, SIDE), bool)
    mask[:, 14:30, 14:30] = True
    filled = propagate(video, mask)
    assert filled.confidence[:, 20:24, 20:24].max() < 0.05


def test_nothing_is_carried_across_a_cut() -> None:
    video, mask = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8), moving_hole()
    video[: FRAMES // 2] = texture(5, SIDE, SIDE) // 3
    video[FRAMES // 2 :] = 255 - texture(6, SIDE, SIDE) // 3
    filled = propagate(video, mask).video
    assert filled[: FRAMES // 2].max() < 128
    assert filled[FRAMES // 2 :].min() > 128


def test_windows_yield_every_frame_in_order_with_the_same_quality() -> None:
    video, mask = np.concatenate([pan(7, 1.2), pan(7, 1.2)[::-1], pan(7, 1.2)]), np.tile(moving_hole(), (3, 1, 1))
    whole = propagate(video, mask).video
    parts = np.stack([filled.video for filled in propagate_stream(zip(video, mask, strict=True), frames=12)])
    assert np.array_equal(parts[~mask], video[~mask])
    assert hole_l1(parts, video, mask) < 1.5 * hole_l1(whole, video, mask) + 0.5


def test_windows_that_are_searched_ahead_give_the_same_result_every_time() -> None:
    video, mask = np.concatenate([pan(7, 1.2), pan(7, 1.2)[::-1]]), np.tile(moving_hole(), (2, 1, 1))
    mask[9:14] = False  # a window begins without a hole
    runs = [[*propagate_stream(zip(video, mask, strict=True), frames=8)] for _ in range(2)]
    assert len(runs[0]) == len(video)
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first.video, second.video)
        assert np.array_equal(first.confidence, second.confidence)


def test_a_hole_over_whole_frames_is_filled() -> None:
    video, mask = pan(8, 0.0), np.zeros((FRAMES, SIDE, SIDE), bool)
    mask[3] = True
    assert hole_l1(propagate(video, mask).video, video, mask) < 3


@pytest.mark.parametrize(("height", "width", "frames"), [(1, 1, 1), (1, 40, 3), (7, 5, 2), (64, 3, 1)])
def test_any_size_and_length(height: int, width: int, frames: int) -> None:
    video = np.full((frames, height, width, 3), 90, np.uint8)
    mask = np.zeros(video.shape[:3], bool)
    mask[:, : height // 2 + 1, : width // 2 + 1] = True
    filled = propagate(video, mask)
    assert filled.video.shape == video.shape
    assert np.array_equal(filled.video[~mask], video[~mask])


def test_other_dtypes_and_shapes_are_refused() -> None:
    video, mask = pan(9, 0.0), moving_hole()
    with pytest.raises(TypeError, match="must be uint8 and mask bool"):
        propagate(video.astype(np.float32), mask)
    with pytest.raises(ValueError, match=r"must be \[T, H, W, 3\]"):
        propagate(video, mask[0])
