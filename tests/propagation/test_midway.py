"""Motion measured from the nearest frame before a hole to the nearest frame after it."""

from __future__ import annotations

import cv2
import numpy as np

from fastinpaint.propagation.flow import Motion
from fastinpaint.propagation.midway import REACH, midway

SIDE, SPEED = 96, 3
STARTS = np.arange(3) == 0
THING = slice(30, 66)


def moving(count: int = 3) -> np.ndarray:
    """A smooth patch that moves to the right by `SPEED` pixels a frame over still ground, for some frames."""
    noise = np.random.default_rng(0).normal(0, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    ground, thing = (cv2.GaussianBlur(one, (0, 0), 5.0) * 700 + 128 for one in noise)
    video = np.repeat(ground[None], count, 0)
    for t in range(count):
        left = 30 + SPEED * (t - 1)
        video[t, THING, left : left + 36] = thing[:36, :36]
    return video.clip(0, 255).astype(np.uint8)


def hidden(video: np.ndarray, also: int | None = None) -> tuple[np.ndarray, np.ndarray, list]:
    """The video with a grey hole over the patch in the frame between, and in another; what is known; places."""
    known = np.ones(video.shape[:3], bool)
    for t in (1, *(() if also is None else (also,))):
        known[t, 36:60, 38:58] = False
    filled = np.where(known[..., None], video, 128).astype(np.uint8)
    return filled, known, [np.nonzero(~frame) for frame in known]


def still(places: list) -> Motion:
    zeros = [np.zeros((len(rows), 2), np.float32) for rows, _ in places]
    return Motion([None, *zeros[1:]], [*zeros[:-1], None])


def test_motion_comes_from_the_neighbours_whatever_the_hole_was_filled_with() -> None:
    """Measured 0.001 pixels in the mean."""
    filled, known, places = hidden(moving())
    found = midway(filled, known, places, STARTS, still(places))
    wanted = np.array([SPEED, 0], np.float32)
    assert np.abs(found.future[1] - wanted).mean() < 0.2
    assert np.abs(found.past[1] + wanted).mean() < 0.2


def test_a_motion_whose_ends_agree_stays() -> None:
    video = np.repeat(moving()[:1], 3, 0)
    filled, known, places = hidden(video)
    before = still(places)
    found = midway(filled, known, places, STARTS, before)
    assert np.array_equal(found.past[1], before.past[1])
    assert np.array_equal(found.future[1], before.future[1])


def test_nothing_is_taken_from_hidden_neighbours_or_across_a_cut() -> None:
    video = moving()
    for also, starts in ((2, STARTS), (None, np.array([True, False, True])), (None, np.array([True, True, False]))):
        filled, known, places = hidden(video, also)
        before = still(places)
        found = midway(filled, known, places, starts, before)
        assert all(
            (one is None and other is None) or np.array_equal(one, other)
            for one, other in zip((*found.past, *found.future), (*before.past, *before.future), strict=True)
        )


def test_a_motion_that_ends_in_a_hole_is_not_taken() -> None:
    video = moving()
    filled, known, _ = hidden(video)
    known[2, 36:60, 52:72] = False
    filled[2][~known[2]] = 128
    places = [np.nonzero(~frame) for frame in known]
    found = midway(filled, known, places, STARTS, still(places))
    rows, columns = places[1]
    changed = (found.future[1] != 0).any(1)
    right, down = np.rint(found.future[1][changed]).astype(int).T
    assert 0.2 < changed.mean() < 0.8
    assert known[2, rows[changed] + down, columns[changed] + right].all()


def test_a_hole_of_two_frames_gets_the_motion_between_the_frames_around_both() -> None:
    """Measured 0.001 pixels in the mean."""
    filled, known, places = hidden(moving(4), 2)
    found = midway(filled, known, places, np.arange(4) == 0, still(places))
    wanted = np.array([SPEED, 0], np.float32)
    for t in (1, 2):
        assert np.abs(found.future[t] - wanted).mean() < 0.2
        assert np.abs(found.past[t] + wanted).mean() < 0.2


def test_nothing_is_measured_between_frames_that_are_far_apart() -> None:
    count = REACH + 3
    filled, known, places = hidden(moving(count))
    for t in range(2, count - 1):
        known[t] = known[1]
    places = [np.nonzero(~frame) for frame in known]
    before = still(places)
    found = midway(filled, known, places, np.arange(count) == 0, before)
    assert np.array_equal(found.future[1], before.future[1])
