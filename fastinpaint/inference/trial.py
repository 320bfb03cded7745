"""How far a correction can be trusted on a clip, measured with copies of the hole over the clip's known pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation import propagate

COPIES = 16
"""Copies of the hole that are tried, spread over the window's frames."""
DRAWS = 25
"""Random places that are drawn for each copy, at most. The first half lie inside the frame as far as the hole does."""
ENOUGH = 0.3
"""Share of the hole's pixels that a copy must hide beside it."""
START = 0.2
"""Strength of a correction that neither gains nor loses on known pixels."""
SLOPE = 8.0
"""Strength added by a gain of the whole error."""
SURE = 1.0
"""Standard errors of the mean that are taken off the gain: a few lucky places are not enough."""

Pair = tuple[np.ndarray, np.ndarray]
Correct = Callable[[list[Pair]], list[np.ndarray]]
"""Makes corrected frames of filled frames and their doubts."""


class Trial(NamedTuple):
    """A frame ``[H, W, 3]``, its known place ``[H, W]`` that was hidden, the fill, and its doubt ``[H, W]``."""

    truth: np.ndarray
    place: np.ndarray
    fill: np.ndarray
    doubt: np.ndarray


def strength_of(correct: Correct, window: list[Pair], seed: int = 0) -> float:
    """Hide known pixels of single frames, fill them, correct the fill, and compare both with the truth.

        clip(START + SLOPE (mean(gain) - SURE std(gain) / sqrt(n)) / mean(before), 0, 1),   gain = before - after

    Before and after are the mean errors at each of the n hidden places. The gain in the hole differs from that at
    other places by far more than the standard error. So a correction counts in part where its gain is small: its error
    is convex in the strength, and a fifth of a wrong correction costs less than a fifth of its error.

    Args:
        window: filled frames and their doubts, 1 - confidence, above 0 in holes.

    Returns:
        what the correction is multiplied by, in [0, 1]; `START` where there is no place for a copy of the hole.
    """
    trials = [trial(frame, doubt, hidden) for frame, doubt, hidden in copies(window, np.random.default_rng(seed))]
    if not trials:
        return START
    before = errors_of([one.fill for one in trials], trials)
    after = errors_of([correct([(one.fill, one.doubt)])[0] for one in trials], trials)
    gain = before - after
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(np.clip(START + SLOPE * (gain.mean() - SURE * error) / max(before.mean(), 1e-6), 0, 1))


def copies(window: list[Pair], rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames, their doubts, and known places ``[H, W]`` to hide: at most `COPIES`, over the frames that have a hole."""
    shown = [pair for pair in window if pair[1].any()]
    found = []
    for number in range(COPIES if shown else 0):
        frame, doubt = shown[number * len(shown) // COPIES]
        hidden = displaced(doubt > 0, rng)
        if hidden is not None:
            found.append((frame, doubt, hidden))
    return found


def displaced(hole: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The known pixels of a copy of the hole at a random place, bool ``[H, W]``; None where no place was found.

    A copy may touch or overlap the hole. So it is as large as the hole, however large that is.
    """
    height, width = hole.shape
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    for draw in range(DRAWS):
        if draw < DRAWS // 2:
            down = int(rng.integers(-rows[0], height - rows[-1]))
            right = int(rng.integers(-columns[0], width - columns[-1]))
        else:
            down, right = int(rng.integers(1 - height, height)), int(rng.integers(1 - width, width))
        shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
        moved = cv2.warpAffine(hole.astype(np.uint8), shift, (width, height), flags=cv2.INTER_NEAREST) > 0
        moved &= ~hole
        if moved.sum() >= ENOUGH * hole.sum():
            return moved
    return None


def trial(frame: np.ndarray, doubt: np.ndarray, hidden: np.ndarray) -> Trial:
    """Hide a place of a frame beside its hole, and fill both by their surroundings."""
    both = (doubt > 0) | hidden
    filled = propagate(np.where(both[..., None], 0, frame)[None].astype(np.uint8), both[None])
    return Trial(frame, hidden, filled.video[0], 1 - filled.confidence[0])


def errors_of(results: list[np.ndarray], trials: list[Trial]) -> np.ndarray:
    """The mean error, 0 to 255, of each result at its trial's hidden place."""
    return np.array(
        [
            np.abs(result[one.place].astype(np.float32) - one.truth[one.place]).mean()
            for result, one in zip(results, trials, strict=True)
        ]
    )
