"""Frames as they come, each with what can be found in it alone, whatever windows it will be in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.data.scenes import SAME_SCENE, STILL, shrunk, similarity, thumbnail
from fastinpaint.propagation import spatial
from fastinpaint.propagation.boxes import CORES, MARGIN, around

Pair = tuple[np.ndarray, np.ndarray]


class Shown(NamedTuple):
    """A frame and its hole.

    Attributes:
        frame: uint8 ``[H, W, 3]``, 0 inside the hole.
        hole: bool ``[H, W]``.
        telea: the hole's pixels by Telea's method, uint8 ``[N, 3]``.
        thumb: the thumbnail that scenes are told apart by.
        starts: whether the frame is the first of a scene.
    """

    frame: np.ndarray
    hole: np.ndarray
    telea: np.ndarray
    thumb: np.ndarray
    starts: bool

    @property
    def has_hole(self) -> bool:
        return len(self.telea) > 0


class Frames:
    """The frames of a video, in order.

    Args:
        pairs: frames and their masks; what a frame holds inside its hole has no influence.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._pairs = iter(pairs)
        self._last: Shown | None = None

    def take(self, count: int) -> list[Shown]:
        """The next frames, fewer at the end of the video."""
        pairs = list(islice(self._pairs, count))
        with ThreadPoolExecutor(CORES) as pool:
            alone = list(pool.map(_alone, pairs))
            chain = alone if self._last is None else [self._last, *alone]
            cuts = list(pool.map(_is_cut, chain[:-1], chain[1:]))
        if self._last is None and alone:
            cuts.insert(0, True)
        taken = [shown._replace(starts=cut) for shown, cut in zip(alone, cuts, strict=True)]
        self._last = taken[-1] if taken else self._last
        return taken


def stacked(window: Sequence[Shown]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Video ``[T, H, W, 3]``, holes ``[T, H, W]`` and the first frames of scenes ``[T]``, of which one is the first."""
    video, hole = (np.stack(planes) for planes in zip(*((shown.frame, shown.hole) for shown in window), strict=True))
    starts = np.array([shown.starts for shown in window])
    starts[0] = True
    return video, hole, starts


def telea(frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Telea's fill of a hole, uint8 ``[N, 3]`` for its N pixels."""
    box = around(hole, MARGIN)
    if box is None:
        return np.zeros((0, 3), np.uint8)
    filled = spatial.opencv(frame[box.slices], hole[box.slices], cv2.INPAINT_TELEA)
    return filled[hole[box.slices]]


def _alone(pair: Pair) -> Shown:
    frame, hole = pair
    if hole.any():
        frame = np.where(hole[..., None], np.uint8(0), frame)
    return Shown(frame, hole, telea(frame, hole), thumbnail(frame), False)


def _is_cut(before: Shown, after: Shown) -> bool:
    """Whether the known parts of two frames show different scenes."""
    known = ~(before.hole | after.hole)
    both = shrunk(known * np.uint8(255)) > 250
    share = float(both.mean())
    if share < 0.1:
        return False
    first, second = (np.where(both, shown.thumb, 128).astype(np.float32) for shown in (before, after))
    if np.abs(first - second).mean() / share < STILL:
        return False
    return (similarity(first, second) - (1 - share)) / share <= SAME_SCENE
