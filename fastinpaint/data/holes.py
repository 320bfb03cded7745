"""Random holes for training and evaluation. The same seed gives the same holes."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fastinpaint.errors import UserError

SIDE_RANGE = (0.375, 0.5)
"""A rectangle's side over the frame's side: least, most (paper, "Data preparation": [0.375 l, 0.5 l])."""

STROKES = (1, 4)
STROKE_VERTICES = (5, 10)
STROKE_WIDTH = (0.05, 0.12)
STROKE_STEP = (0.08, 0.22)
STROKE_TURN = 0.8
STROKE_SPEED = 0.008
"""Numbers of strokes and corners; width, step between corners and speed per frame over the frame's shorter side; the
turn at a corner in radians. Such a hole covers about a fifth of the frame."""


def make_holes(kind: str, frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Holes for one video: uint8 ``[T, H, W]``, 1 = hole; at least one pixel of every frame is a hole.

    Args:
        kind: "rectangle", one place and size for all frames, as the paper trains; "rectangles", another for every
            frame, as its random holes; "strokes", brush strokes that drift over the frames.
        frames, height, width: T, H, W, each at least 1.
        rng: the only source of randomness.

    Raises:
        UserError: the kind is unknown; the message lists the known ones.
    """
    if kind not in _KINDS:
        raise UserError(f"holes: kind must be one of {', '.join(_KINDS)}; got {kind!r}.")
    holes = np.zeros((frames, height, width), np.uint8)
    _KINDS[kind](holes, rng)
    return holes


def _rectangle(holes: np.ndarray, rng: np.random.Generator) -> None:
    rows, columns = (_span(length, rng) for length in holes.shape[1:])
    holes[:, rows, columns] = 1


def _rectangles(holes: np.ndarray, rng: np.random.Generator) -> None:
    for frame in holes:
        _rectangle(frame[None], rng)


def _span(length: int, rng: np.random.Generator) -> slice:
    """A rectangle's extent along one axis: its size uniform in SIDE_RANGE, its place uniform in the frame."""
    low, high = (share * length for share in SIDE_RANGE)
    smallest = max(1, int(np.ceil(low)))
    size = int(rng.integers(smallest, max(smallest, int(high)) + 1))
    start = int(rng.integers(0, length - size + 1))
    return slice(start, start + size)


def _strokes(holes: np.ndarray, rng: np.random.Generator) -> None:
    """Polylines that turn a little at every corner. Each drifts in a straight line and reflects at the frame's edge."""
    extent = np.array(holes.shape[:0:-1])  # x, y
    side = int(extent.min())
    for _ in range(rng.integers(*STROKES, endpoint=True)):
        count = rng.integers(*STROKE_VERTICES, endpoint=True)
        angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, STROKE_TURN, count))
        steps = rng.uniform(*STROKE_STEP, (count, 1)) * side * np.stack([np.cos(angles), np.sin(angles)], 1)
        corners = rng.uniform(0, extent) + np.cumsum(steps, 0)
        drift = rng.normal(0, STROKE_SPEED * side, 2)
        thickness = max(1, round(rng.uniform(*STROKE_WIDTH) * side))
        for t, frame in enumerate(holes):
            line = _mirror(corners + t * drift, extent - 1)
            cv2.polylines(frame, [np.rint(line).astype(np.int32)], False, 1, thickness)


def _mirror(points: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Reflect coordinates into [0, last]."""
    folded = np.mod(points, np.maximum(2 * last, 1))
    return np.minimum(np.minimum(folded, 2 * last - folded).clip(0), last)


_KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], None]] = {
    "rectangle": _rectangle,
    "rectangles": _rectangles,
    "strokes": _strokes,
}

HOLE_KINDS = tuple(_KINDS)
