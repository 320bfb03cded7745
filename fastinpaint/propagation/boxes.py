"""The part of a frame around its hole: all that is looked at there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    if not len(rows):
        return None
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    return Box(top, min(height, int(rows[-1]) + 1 + margin), left, min(width, int(columns[-1]) + 1 + margin))
