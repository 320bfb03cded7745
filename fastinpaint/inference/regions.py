"""Where the network looks: windows around the holes of a frame."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

CONTEXT = 2.0  # side of a window over that of a frame's hole in it; the training holes are 0.375 to 0.5 of the frame
ROOM = 1.25  # side of a window over that of all its holes together, wherever they move in the clip
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
    """One input of the network: it sees `window`, scaled to `height` x `width`, and fills the holes inside `hole`."""

    hole: Box
    window: Box
    height: int
    width: int


def find_regions(masks: np.ndarray, size: int) -> list[Region]:
    """The windows that together show every hole of a clip with context around it, each in one place for all frames.

    Each group of holes gets a square window of at least `size` pixels, twice the side of the group's hole in any one
    frame, and 1.25 times the side of the place it takes up over all frames. The window is moved or cut to lie inside
    the frame, and scaled so that its longer side is at most `size`. Holes far apart get a window each.

    Args:
        masks: bool [T, H, W], True = hole.
        size: the side the network was trained on, in pixels.
    """
    holes = np.logical_or.reduce(masks)
    if not holes.any():
        return []
    return [_region(box, masks, size) for box in _merged(_boxes(holes, reach=size // 8), masks, size)]


def whole_frame(masks: np.ndarray) -> list[Region]:
    """One region: the whole frame, unscaled."""
    height, width = masks.shape[1:]
    frame = Box(0, height, 0, width)
    return [Region(frame, frame, height, width)] if masks.any() else []


def _boxes(holes: np.ndarray, reach: int) -> list[Box]:
    """The bounding box of each group of holes; holes less than about `reach` pixels apart are one group."""
    near = cv2.dilate(holes.astype(np.uint8), np.ones((reach | 1, reach | 1), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = []
    for label, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        group = Box(y, y + height, x, x + width)
        boxes.append(_bounds(holes[group.slices] & (labels[group.slices] == label), y, x))
    return boxes


def _bounds(holes: np.ndarray, y: int = 0, x: int = 0) -> Box:
    """The bounding box of a mask that has a hole; y and x are the place of its corner."""
    rows, columns = np.flatnonzero(holes.any(1)), np.flatnonzero(holes.any(0))
    return Box(y + int(rows[0]), y + int(rows[-1]) + 1, x + int(columns[0]), x + int(columns[-1]) + 1)


def _merged(boxes: list[Box], masks: np.ndarray, size: int) -> list[Box]:
    """Join boxes while their common window is at most `COARSER` times as large as their own."""
    merged: list[tuple[Box, int]] = []
    for box in boxes:
        side = _side(box, masks, size)
        grown = True
        while grown:
            grown = False
            for other in merged:
                joint = box.joined(other[0])
                if round(ROOM * joint.side) > COARSER * max(side, other[1]):
                    continue  # the place over all frames is too large already
                joint_side = _side(joint, masks, size)
                if joint_side <= COARSER * max(side, other[1]):
                    merged.remove(other)
                    box, side, grown = joint, joint_side, True
                    break
        merged.append((box, side))
    return [box for box, _ in merged]


def _side(box: Box, masks: np.ndarray, size: int) -> int:
    """The side of a group's window in the video's pixels, before the frame cuts it; at most the frame's longer side."""
    rows, columns = box.slices
    largest = max(_bounds(frame).side for frame in masks[:, rows, columns] if frame.any())
    wanted = max(size, round(CONTEXT * largest), round(ROOM * box.side))
    return min(wanted, max(size, *masks.shape[1:]))


def _region(hole: Box, masks: np.ndarray, size: int) -> Region:
    side = _side(hole, masks, size)
    y0, y1 = _span(hole.y0, hole.y1, side, masks.shape[1])
    x0, x1 = _span(hole.x0, hole.x1, side, masks.shape[2])
    scale = size / side
    return Region(hole, Box(y0, y1, x0, x1), max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale)))


def _span(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """`side` pixels with low..high in their middle, moved to lie inside 0..limit, or all of it where it is shorter."""
    if side >= limit:
        return 0, limit
    start = min(max((low + high - side) // 2, 0), limit - side)
    return start, start + side
