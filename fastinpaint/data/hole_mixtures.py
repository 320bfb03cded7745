"""The holes that the correction network is trained on: the package's kinds, moving ones, and strips along an edge.

All functions return uint8 ``[T, side, side]``, 1 = hole, with at least one hole pixel in every frame.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fastinpaint.data.holes import SIDE_RANGE, make_holes

SPEED = 0.02
"""Standard deviation of a moving hole's speed, in sides of the frame per frame."""
CORNERS = 12
"""Of the outline of an object."""
RADIUS = (0.15, 0.3)
"""Of an object, in sides of the frame."""
STRIP = (0.08, 0.3)
"""Width of a strip along an edge of the frame, in sides."""


def moving_rectangle(frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A rectangle that moves in a straight line and reflects at the frame's edge."""
    size = rng.uniform(*SIDE_RANGE, 2) * side
    corners = _path(rng.uniform(0, 1, 2) * (side - size), side - size, frames, side, rng)
    holes = np.zeros((frames, side, side), np.uint8)
    for hole, (top, left) in zip(holes, np.rint(corners).astype(int), strict=True):
        hole[top : top + round(size[0]), left : left + round(size[1])] = 1
    return holes


def object_shape(frames: int, side: int, rng: np.random.Generator, speed: float = SPEED) -> np.ndarray:
    """A rounded shape that moves as `moving_rectangle` and changes its outline a little."""
    centres = _path(rng.uniform(0.2, 0.8, 2) * side, np.full(2, side - 1.0), frames, side, rng, speed)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = rng.uniform(*RADIUS) * side * rng.uniform(0.6, 1.2, CORNERS)
    wobble, phase = rng.uniform(0, 0.15, CORNERS), rng.uniform(0, 2 * np.pi, CORNERS)
    directions = np.stack([np.sin(angles), np.cos(angles)], 1) * rng.uniform(0.6, 1.4, 2)
    holes = np.zeros((frames, side, side), np.uint8)
    for t, hole in enumerate(holes):
        reach = radii * (1 + (speed > 0) * wobble * np.sin(phase + 0.4 * t))
        outline = centres[t] + directions * reach[:, None]
        smooth = cv2.approxPolyDP(np.rint(outline[:, ::-1]).astype(np.int32)[:, None], 0, True)
        cv2.fillPoly(hole, [smooth], 1)
        middle = np.rint(centres[t]).astype(int).clip(0, side - 1)
        hole[middle[0], middle[1]] = 1
    return holes


def still_shape(frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """`object_shape` at one place."""
    return object_shape(frames, side, rng, 0.0)


def border(frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A strip along one edge of all frames."""
    hole = np.zeros((side, side), np.uint8)
    hole[: max(1, round(rng.uniform(*STRIP) * side))] = 1
    return np.repeat(np.rot90(hole, int(rng.integers(4)))[None], frames, 0)


def _path(
    start: np.ndarray, room: np.ndarray, frames: int, side: int, rng: np.random.Generator, speed: float = SPEED
) -> np.ndarray:
    """Positions ``[T, 2]`` on a straight line from `start`, reflected into [0, room]."""
    points = (
        start + np.arange(frames)[:, None] * rng.normal(0, speed * side, 2) if speed else np.tile(start, (frames, 1))
    )
    folded = np.mod(points, np.maximum(2 * room, 1))
    return np.minimum(np.minimum(folded, 2 * room - folded).clip(0), room)


def _packaged(kind: str) -> Callable[[int, int, np.random.Generator], np.ndarray]:
    return lambda frames, side, rng: make_holes(kind, frames, side, side, rng)


Mixture = dict[str, tuple[float, Callable[[int, int, np.random.Generator], np.ndarray]]]

MIXTURE: Mixture = {
    "rectangle": (0.45, _packaged("rectangle")),
    "moving rectangle": (0.12, moving_rectangle),
    "rectangles": (0.05, _packaged("rectangles")),
    "strokes": (0.15, _packaged("strokes")),
    "moving object": (0.12, object_shape),
    "still shape": (0.06, still_shape),
    "border": (0.05, border),
}
"""Kinds of holes with their shares of the draws."""
STILLS: Mixture = {
    "rectangle": (0.6, _packaged("rectangle")),
    "still shape": (0.2, still_shape),
    "border": (0.1, border),
    "strokes": (0.1, _packaged("strokes")),
}
"""`MIXTURE` for single frames."""


def draw_hole(mixture: Mixture, frames: int, side: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A hole of a random kind."""
    kind = str(rng.choice(list(mixture), p=[share for share, _ in mixture.values()]))
    return kind, mixture[kind][1](frames, side, rng)
