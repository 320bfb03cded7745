"""What carried pixels would get wrong, measured on the known pixels around the hole."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation.boxes import Box
from fastinpaint.propagation.carry import Mosaic, Source
from fastinpaint.propagation.pyramid import extend

RING = 5
"""Width in pixels of the ring of known pixels around a hole that are compared with their sources."""
NEAR = 1
"""Pixels next to the hole that are not compared: masks often leave out the blurred edge of what they hide."""
UNKNOWN = 40.0
"""Error, in grey levels, that is assumed where no ring pixel can be compared."""


class Evidence(NamedTuple):
    """For each hole pixel of a frame, from the ring: float32 ``[N]``, but for the spread.

    Attributes:
        offset: the ring's brightness less the carried one's, smoothed, in grey levels.
        error: mean absolute difference of the two, smoothed, in grey levels.
        age: log(1 + distance in frames) of the sources that this was measured with.
        spread: mean deviation of the ring's differences in brightness from the smooth offset, in grey levels; a float.
    """

    offset: np.ndarray
    error: np.ndarray
    age: np.ndarray
    spread: float = 0.0


class Ring:
    """The known pixels around the hole of one frame, and for each the hole pixel next to it.

    Args:
        hole: bool ``[h, w]``, the box of the frame that holds the hole.
        box: where that is.
        place: rows and columns of the hole's pixels in the whole frame.
    """

    def __init__(self, hole: np.ndarray, box: Box, place: tuple[np.ndarray, np.ndarray]) -> None:
        self.box, self.shape = box, hole.shape
        self.hole_rows, self.hole_columns = place[0] - box.top, place[1] - box.left
        distance, labels = cv2.distanceTransformWithLabels(
            (~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        index = np.zeros(int(labels.max()) + 1, np.int32)
        index[labels[self.hole_rows, self.hole_columns]] = np.arange(len(place[0]))
        self.rows, self.columns = np.nonzero((distance > NEAR) & (distance <= NEAR + RING))
        self.next_to = index[labels[self.rows, self.columns]]
        self.right = (self.columns - self.hole_columns[self.next_to]).astype(np.float32)
        self.down = (self.rows - self.hole_rows[self.next_to]).astype(np.float32)


def measure(part: np.ndarray, number: int, ring: Ring, source: Source, mosaic: Mosaic, known: np.ndarray) -> Evidence:
    """Carry the ring from where the hole pixels next to it come from, and compare it with what is there.

    Args:
        part: uint8 ``[h, w, 3]``, the ring's box of frame `number` of the clip.
        known: bool ``[T, H, W]``.
    """
    height, width = known.shape[1:]
    shown = source.frame[ring.next_to]
    x, y = source.x[ring.next_to] + ring.right, source.y[ring.next_to] + ring.down
    near_x, near_y = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
    usable = (shown >= 0) & (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
    usable[usable] = known[shown[usable], near_y[usable], near_x[usable]]
    count = len(ring.hole_rows)
    if not usable.any():
        nothing = np.zeros(count, np.float32)
        return Evidence(nothing, nothing + UNKNOWN, nothing, UNKNOWN)
    rows, columns, shown = ring.rows[usable], ring.columns[usable], shown[usable]
    gap = part[rows, columns].astype(np.float32) - mosaic.sample(shown, x[usable], y[usable])
    brighter = gap.mean(1)
    plane = np.zeros((*ring.shape, 4), np.float32)
    plane[rows, columns] = np.column_stack(
        [brighter, np.abs(gap).mean(1), np.log1p(np.abs(shown - number)), np.ones(len(rows))]
    )
    sums = cv2.GaussianBlur(plane, (0, 0), RING / 2)
    *planes, total = cv2.split(sums)
    norm = np.maximum(total, 1e-6)
    means = cv2.merge([one / norm for one in planes])
    places = (np.concatenate([ring.hole_rows, rows]), np.concatenate([ring.hole_columns, columns]))
    smooth = extend(means, plane[..., 3], places)
    offset, error, age = smooth[:count].T
    return Evidence(offset, error, age, float(np.abs(brighter - smooth[count:, 0]).mean()))
