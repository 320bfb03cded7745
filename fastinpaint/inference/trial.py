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

    Args:
        window: filled frames and their doubts, 1 - confidence, above 0 in holes.

    Returns:
        whether the correction's error is below `BETTER` of the fill's. Where there is no place for a copy of the hole,
        true, as the correction helps on the mean of clips.
    """
    rng = np.random.default_rng(seed)
    trials = [
        trial(frame, doubt, hidden)
        for frame, doubt in tried(window)
        for hidden in (displaced((doubt > 0)[None], rng)[0] for _ in range(COPIES))
        if hidden.any()
    ]
    return not trials or error_of(correct, trials) < BETTER * fill_error(trials)


def tried(window: list[Pair]) -> list[Pair]:
    """At most `FRAMES` of the frames that have a hole."""
    shown = [pair for pair in window if pair[1].any()]
    return shown[:: max(1, -(-len(shown) // FRAMES))]


def trial(frame: np.ndarray, doubt: np.ndarray, hidden: np.ndarray) -> Trial:
    """Hide a place of a frame beside its hole, and fill it by its surroundings."""
    both = (doubt > 0) | hidden
    filled = propagate(np.where(both[..., None], 0, frame)[None].astype(np.uint8), both[None])
    return Trial(frame, hidden, filled.video[0], 1 - filled.confidence[0])


def fill_error(trials: list[Trial]) -> float:
    """The mean error of the fills at the hidden places, 0 to 255."""
    return _mean_error([one.fill for one in trials], trials)


def error_of(correct: Correct, trials: list[Trial]) -> float:
    """The mean error of the corrected fills at the hidden places, 0 to 255."""
    return _mean_error([correct([(one.fill, one.doubt)])[0] for one in trials], trials)


def _mean_error(results: list[np.ndarray], trials: list[Trial]) -> float:
    errors = [
        np.abs(result[one.place].astype(np.float32) - one.truth[one.place])
        for result, one in zip(results, trials, strict=True)
    ]
    return float(np.concatenate(errors).mean())
