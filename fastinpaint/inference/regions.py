"""Where the network looks: windows around the holes of a frame."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

CONTEXT = 2.0  # side of a window over the side of its hole; the training holes are 0.375 to 0.5 of the frame
COARSER = 1.25  # holes share a window while that makes it at most this much larger than the largest of their own


class Box(NamedTuple):
    """Pixels y0 <= y < y1, x0 <= x < x1."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def side(self) -> int:
        return max(self.y1 - self.y0, self.x1 - self.x0)

    def joined(self, other: Box) -> Box:
        low, high = np.minimum(self, other), np.maximum(self, other)
        return Box(int(low[0]), int(high[1]), int(low[2]), int(high[3]))


class Region(NamedTuple):
    """One look of the network: it sees `window`, scaled to `height` x `width`, and fills the holes inside `hole`."""

    hole: Box
    window: Box
    height: int
    width: int


def find_regions(holes: np.ndarray, size: int) -> list[Region]:
    """The windows that together show every hole with context around it.

    Each group of holes gets a square window of side max(size, 2 * side of the group), moved or cut to stay inside the
    frame, and scaled so that a square of that side becomes size x size. Holes far apart get a window each.

    Args:
        holes: bool [H, W], True where any frame of the clip has a hole.
        size: the side the network was trained on, in pixels.
    """
    if not holes.any():
        return []
    return [_region(box, holes.shape, size) for box in _merged(_boxes(holes, reach=size // 8), size)]


def whole_frame(holes: np.ndarray) -> list[Region]:
    """One region: the whole frame, unscaled."""
    height, width = holes.shape
    frame = Box(0, height, 0, width)
    return [Region(frame, frame, height, width)] if holes.any() else []


def _boxes(holes: np.ndarray, reach: int) -> list[Box]:
    """The bounding box of each group of holes; holes less than about `reach` pixels apart are one group."""
    near = cv2.dilate(holes.astype(np.uint8), np.ones((reach | 1, reach | 1), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = []
    for label, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        inside = holes[y : y + height, x : x + width] & (labels[y : y + height, x : x + width] == label)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        boxes.append(Box(y + int(rows[0]), y + int(rows[-1]) + 1, x + int(columns[0]), x + int(columns[-1]) + 1))
    return boxes


def _merged(boxes: list[Box], size: int) -> list[Box]:
    """Join boxes while their common window is hardly coarser than their own."""
    merged: list[Box] = []
    for box in boxes:
        grown = True
        while grown:
            grown = False
            for other in merged:
                joint = box.joined(other)
                if _side(joint, size) <= COARSER * max(_side(box, size), _side(other, size)):
                    merged.remove(other)
                    box, grown = joint, True
                    break
        merged.append(box)
    return merged


def _side(box: Box, size: int) -> int:
    return max(size, round(CONTEXT * box.side))


def _region(hole: Box, shape: tuple[int, ...], size: int) -> Region:
    side = _side(hole, size)
    y0, y1 = _span(hole.y0, hole.y1, side, shape[0])
    x0, x1 = _span(hole.x0, hole.x1, side, shape[1])
    return Region(
        hole, Box(y0, y1, x0, x1), max(1, round((y1 - y0) * size / side)), max(1, round((x1 - x0) * size / side))
    )


def _span(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """`side` pixels with low..high in their middle, moved to lie inside 0..limit, or all of it where it is shorter."""
    if side >= limit:
        return 0, limit
    start = min(max((low + high - side) // 2, 0), limit - side)
    return start, start + side
