"""Filling a video by what its other frames show, in windows of constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from fastinpaint.data.scenes import SAME_SCENE, STILL, similarity, thumbnail
from fastinpaint.propagation.adapt import Adaptation
from fastinpaint.propagation.blend import Weights, blend
from fastinpaint.propagation.carry import Mosaic
from fastinpaint.propagation.rounds import Clip
from fastinpaint.propagation.steady import steady

PIXELS = 64_000_000
"""Pixels that a window holds at most."""
SHORTEST, LONGEST = 12, 96
"""Frames of a window."""

Pair = tuple[np.ndarray, np.ndarray]


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
    source = iter(pairs)
    window = list(islice(source, 1))
    if not window:
        return
    height, width = window[0][1].shape
    length = frames or min(LONGEST, max(SHORTEST, PIXELS // (height * width)))
    context = length // 4
    window += islice(source, length - 1)
    before: list[Filled] = []
    weights: Weights | None = None
    while window:
        fresh = list(islice(source, length - 2 * context))
        end = len(window) - context if fresh else len(window)
        if adaptation is not None and weights is None:
            weights = _adapted(window, adaptation)
        done = _fill_window(window, before, end, weights)
        yield from done
        if not fresh:
            return
        before = [*before, *done][-context:] if context else []
        window = window[end - len(before) :] + fresh


def _adapted(window: list[Pair], adaptation: Adaptation) -> Weights | None:
    """None where the window has no hole."""
    hole = np.stack([mask for _, mask in window])
    if not hole.any():
        return None
    video = np.stack([frame for frame, _ in window])
    video[hole] = 0
    return adaptation.weights(video, hole, _scene_starts(video, ~hole))


def _fill_window(window: list[Pair], before: list[Filled], end: int, weights: Weights | None) -> list[Filled]:
    """Fill the frames of a window up to `end`; the first are filled already, those from `end` only looked at."""
    start = len(before)
    hole = np.stack([mask for _, mask in window])
    if not hole[start:end].any():
        return [Filled(frame, np.ones(frame.shape[:2], np.float32)) for frame, _ in window[start:end]]
    video = np.stack([frame for frame, _ in window])
    video[hole] = 0
    clip = Clip(video, hole, _scene_starts(video, ~hole))
    found = clip.search()
    filled, mosaic = found.filled, Mosaic(found.filled)
    doubts = [np.ones(len(rows), np.float32) for rows, _ in clip.places]
    for t in range(start):
        filled[t], doubts[t] = before[t].video, 1 - before[t].confidence[clip.places[t]]
    todo = [t for t in range(start, end) if len(clip.places[t][0])]
    with ThreadPoolExecutor() as pool:
        mixtures = pool.map(lambda t: blend(clip.candidates(t, found, mosaic), weights), todo)
        for t, mixed in zip(todo, mixtures, strict=True):
            filled[t][clip.places[t]] = np.rint(mixed.value).clip(0, 255).astype(np.uint8)
            doubts[t] = 1 - mixed.confidence
    upto = slice(end)
    calm = steady(filled[upto], doubts[upto], found.motion, clip.places[upto], clip.starts)
    done = []
    for t in range(start, end):
        frame, confidence = filled[t].copy(), np.ones(hole.shape[1:], np.float32)
        frame[clip.places[t]] = np.rint(calm[t]).clip(0, 255).astype(np.uint8)
        confidence[clip.places[t]] = 1 - doubts[t]
        done.append(Filled(frame, confidence))
    return done


def _scene_starts(video: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool ``[T]``: frames whose known part shows another scene than that of the frame before."""
    starts = np.zeros(len(video), bool)
    starts[0] = True
    thumbs = [thumbnail(frame) for frame in video]
    for t in range(1, len(video)):
        both = thumbnail(np.repeat((known[t] & known[t - 1])[..., None] * np.uint8(255), 3, 2)) > 250
        share = float(both.mean())
        if share < 0.1:
            continue
        before, after = (np.where(both, thumbs[i], 128).astype(np.float32) for i in (t - 1, t))
        if np.abs(before - after).mean() / share >= STILL:
            starts[t] = (similarity(before, after) - (1 - share)) / share <= SAME_SCENE
    return starts
