"""Whether a correction helps on a clip, measured with holes of the same shape over the clip's known pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastinpaint.propagation import propagate
from fastinpaint.propagation.adapt import displaced

FRAMES, COPIES = 4, 3
"""Frames of the window that are tried, and copies of each frame's hole."""
BETTER = 0.98
"""Share of the fill's error that the corrected one's must be below, or the clip is not corrected."""
SURE = 1.0
"""Standard errors of the mean that the gain must be above: a few lucky places are not enough."""

Pair = tuple[np.ndarray, np.ndarray]
Correct = Callable[[list[Pair]], list[np.ndarray]]
"""Makes corrected frames of filled frames and their doubts."""


class Trial(NamedTuple):
    """A frame ``[H, W, 3]``, its known place ``[H, W]`` that was hidden, the fill, and its doubt ``[H, W]``."""

    truth: np.ndarray
    place: np.ndarray
    fill: np.ndarray
    doubt: np.ndarray


def helps(correct: Correct, window: list[Pair], seed: int = 0) -> bool:
    """Hide known pixels of single frames, fill them, correct the fill, and compare both with the truth.

        mean(after) < BETTER mean(before)   and   mean(gain) > SURE std(gain) / sqrt(n),   gain = before - after

    Before and after are the mean errors at each of the n hidden places.

    Args:
        window: filled frames and their doubts, 1 - confidence, above 0 in holes.

    Returns:
        whether the correction helps. Where there is no place for a copy of the hole, true, as it helps on the mean of
        clips.
    """
    rng = np.random.default_rng(seed)
    trials = [
        trial(frame, doubt, hidden)
        for frame, doubt in tried(window)
        for hidden in (displaced((doubt > 0)[None], rng)[0] for _ in range(COPIES))
        if hidden.any()
    ]
    if not trials:
        return True
    before = errors_of([one.fill for one in trials], trials)
    after = errors_of([correct([(one.fill, one.doubt)])[0] for one in trials], trials)
    gain = before - after
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(after.mean() < BETTER * before.mean() and gain.mean() > SURE * error)


def tried(window: list[Pair]) -> list[Pair]:
    """At most `FRAMES` of the frames that have a hole."""
    shown = [pair for pair in window if pair[1].any()]
    return shown[:: max(1, -(-len(shown) // FRAMES))]


def trial(frame: np.ndarray, doubt: np.ndarray, hidden: np.ndarray) -> Trial:
    """Hide a place of a frame beside its hole, and fill it by its surroundings."""
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
