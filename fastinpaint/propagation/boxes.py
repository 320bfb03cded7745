"""The part of a frame around its hole: all that is looked at there."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

MARGIN = 20
"""Pixels around a frame's hole that candidates are judged by."""
CORES = os.cpu_count() or 1
"""Threads that work on the frames of a window."""


class Box(NamedTuple):
    """Rows ``top <= y < bottom`` and columns ``left <= x < right`` of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def around(masks: np.ndarray, margin: int) -> Box | None:
    """The box of all true pixels of bool ``[..., H, W]``, grown by `margin` inside the frame; None for no pixel."""
    height, width = masks.shape[-2:]
    plane: np.ndarray = np.logical_or.reduce(masks.reshape(-1, height, width))
    return surrounding((np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))), (height, width), margin)


def surrounding(place: tuple[np.ndarray, np.ndarray], size: tuple[int, ...], margin: int) -> Box | None:
    """The box of pixels at rows and columns, grown by `margin` inside a frame of that size; None for no pixel."""
    if not len(place[0]):
        return None
    (top, bottom), (left, right) = (
        (max(0, int(axis.min()) - margin), min(limit, int(axis.max()) + 1 + margin))
        for axis, limit in zip(place, size, strict=True)
    )
    return Box(top, bottom, left, right)
