"""Whether a correction helps on a clip, measured with holes of the same shape over the clip's known pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastinpaint.propagation import propagate
from fastinpaint.propagation.adapt import displaced

FRAMES, COPIES = 4, 3
"""Frames of the window that are tried, and copies of each frame's hole."""
BETTER = 0.98
"""Share of the fill's error that the corrected one's must be below, or the clip is not corrected."""

Pair = tuple[np.ndarray, np.ndarray]


def helps(correct: Callable[[list[Pair]], list[np.ndarray]], window: list[Pair], seed: int = 0) -> bool:
    """Hide known pixels of single frames, fill them, correct the fill, and compare both with the truth.

    Args:
        correct: makes corrected frames of filled frames and their doubts.
        window: filled frames and their doubts, 1 - confidence, above 0 in holes.

    Returns:
        whether the correction's error is below `BETTER` of the fill's. Where there is no place for a copy of the hole,
        true, as the correction helps on the mean of clips.
    """
    rng = np.random.default_rng(seed)
    shown = [number for number, (_, doubt) in enumerate(window) if doubt.any()]
    fill_error, error, count = 0.0, 0.0, 0
    for number in shown[:: max(1, -(-len(shown) // FRAMES))]:
        frame, doubt = window[number]
        hole = (doubt > 0)[None]
        for _ in range(COPIES):
            hidden = displaced(hole, rng)
            if not hidden.any():
                continue
            both = hole | hidden
            filled = propagate(np.where(both[..., None], 0, frame[None]).astype(np.uint8), both)
            (corrected,) = correct([(filled.video[0], 1 - filled.confidence[0])])
            place, truth = hidden[0], frame[hidden[0]].astype(np.float32)
            fill_error += float(np.abs(filled.video[0][place] - truth).sum())
            error += float(np.abs(corrected[place] - truth).sum())
            count += int(place.sum())
    return count == 0 or error < BETTER * fill_error
