"""Filling a video by what its other frames show, in windows of constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from fastinpaint.propagation.adapt import Adaptation
from fastinpaint.propagation.blend import Blended, Weights, blend
from fastinpaint.propagation.boxes import CORES
from fastinpaint.propagation.handover import hand_over
from fastinpaint.propagation.rounds import Clip, Found
from fastinpaint.propagation.shown import Frames, Pair, Shown, stacked
from fastinpaint.propagation.steady import steady
from fastinpaint.propagation.unseen import completed

PIXELS = 64_000_000
"""Pixels that a window holds at most."""
SHORTEST, LONGEST = 12, 96
"""Frames of a window."""


class Filled(NamedTuple):
    """A filled frame, or a filled video.

    Attributes:
        video: uint8 ``[H, W, 3]`` or ``[T, H, W, 3]``, equal to the source where it is known.
        confidence: float32 ``[H, W]`` or ``[T, H, W]``: 1 known, lower the less is known of the pixel, 0 never seen.
    """

    video: np.ndarray
    confidence: np.ndarray


def propagate(video: np.ndarray, mask: np.ndarray, adaptation: Adaptation | None = None) -> Filled:
    """Fill the holes of a video with what other frames show, else from their surroundings.

    Args:
        video: uint8 ``[T, H, W, 3]``; what it holds inside holes has no influence.
        mask: bool ``[T, H, W]``, true = hole.
        adaptation: how the mixing network is adapted to the video first; None leaves it as it is.

    Raises:
        TypeError, ValueError: dtypes or shapes other than these.
    """
    if video.dtype != np.uint8 or mask.dtype != np.bool_:
        raise TypeError(f"propagate: video must be uint8 and mask bool, got {video.dtype} and {mask.dtype}.")
    if video.ndim != 4 or video.shape[3] != 3 or mask.shape != video.shape[:3]:
        raise ValueError(f"propagate: video must be [T, H, W, 3] and mask [T, H, W], got {video.shape}, {mask.shape}.")
    frames, confidences = np.empty_like(video), np.empty(mask.shape, np.float32)
    for t, done in enumerate(propagate_stream(zip(video, mask, strict=True), None, adaptation)):
        frames[t], confidences[t] = done
    return Filled(frames, confidences)


def propagate_stream(
    pairs: Iterable[Pair], frames: int | None = None, adaptation: Adaptation | None = None
) -> Iterator[Filled]:
    """`propagate` for a video of any length: takes (frame, mask) pairs and yields filled frames, in order.

    A frame sees at least a quarter of a window before it and after it.

    Args:
        frames: of a window; None chooses by the size of the frames.
        adaptation: to the first window with a hole, for all of them; None uses the package's weights.
    """
    source = Frames(pairs)
    window = source.take(1)
    if not window:
        return
    height, width = window[0].hole.shape
    length = frames or min(LONGEST, max(SHORTEST, PIXELS // (height * width)))
    context = length // 4
    window += source.take(length - 1)
    before: list[Filled] = []
    weights: Weights | None = None
    search: Future[Searched] | None = None
    with ThreadPoolExecutor(1, "fastinpaint search") as ahead:
        while window:
            fresh = source.take(length - 2 * context)
            start, end = len(before), len(window) - context if fresh else len(window)
            if adaptation is not None and weights is None:
                weights = _adapted(window, adaptation)
            if search is None and _has_hole(window[start:end]):
                search = ahead.submit(_searched, window)
            current, search = search, None
            kept = min(end, context)
            following = window[end - kept :] + fresh if fresh else []
            if _has_hole(following[kept : length - context]):  # found while the current window is mixed
                search = ahead.submit(_searched, following)
            if current is None:
                done = [Filled(shown.frame, np.ones((height, width), np.float32)) for shown in window[start:end]]
            else:
                done = _mixed(current.result(), before, end, weights)
            yield from done
            before, window = [*before, *done][end - kept :], following


def _has_hole(frames: list[Shown]) -> bool:
    return any(shown.has_hole for shown in frames)


def _adapted(window: list[Shown], adaptation: Adaptation) -> Weights | None:
    """None where the window has no hole."""
    if not _has_hole(window):
        return None
    return adaptation.weights(*stacked(window))


class Searched(NamedTuple):
    """A window, and what its frames show of each other's holes."""

    clip: Clip
    found: Found


def _searched(window: list[Shown]) -> Searched:
    clip = Clip(*stacked(window), [shown.telea for shown in window])
    return Searched(clip, clip.search())


def _mixed(searched: Searched, before: list[Filled], end: int, weights: Weights | None) -> list[Filled]:
    """Fill the frames of a window up to `end`; the first are filled already, those from `end` only looked at."""
    (clip, found), start = searched, len(before)
    filled = found.filled.copy()
    doubts = [np.ones(len(rows), np.float32) for rows, _ in clip.places]
    for t in range(start):
        filled[t], doubts[t] = before[t].video, 1 - before[t].confidence[clip.places[t]]
    todo = [t for t in range(start, end) if len(clip.places[t][0])]

    def mixture(t: int) -> Blended:
        candidates = clip.candidates(t, found, found.mosaic)
        return completed(*clip.around(t), candidates, blend(candidates, weights))

    with ThreadPoolExecutor(CORES) as pool:
        mixtures = pool.map(mixture, todo)
        for t, mixed in zip(todo, mixtures, strict=True):
            filled[t][clip.places[t]] = np.rint(mixed.value).clip(0, 255).astype(np.uint8)
            doubts[t] = 1 - mixed.confidence
    upto = slice(end)
    calm = steady(filled[upto], doubts[upto], found.motion, clip.places[upto], clip.starts)
    if start:
        hand_over(calm, filled[upto], doubts, found.motion, clip.places, clip.starts, start)
    done = []
    for t in range(start, end):
        frame, confidence = filled[t].copy(), np.ones(filled.shape[1:3], np.float32)
        frame[clip.places[t]] = np.rint(calm[t]).clip(0, 255).astype(np.uint8)
        confidence[clip.places[t]] = 1 - doubts[t]
        done.append(Filled(frame, confidence))
    return done
