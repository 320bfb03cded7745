"""Views made on the spot: a new hole over a new piece of a frame, filled by a cheap likeness of the propagated fill.

What no frame shows is filled by propagation from the frame's own surroundings. So a still frame is enough to learn from
there, with any hole, and no view is seen twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fastinpaint.data.hole_mixtures import border, object_shape
from fastinpaint.data.holes import make_holes
from fastinpaint.errors import UserError
from fastinpaint.propagation.kriging import likely
from fastinpaint.propagation.spatial import harmonic, opencv
from fastinpaint.training.colours import changed

FINE = 2
"""Side of a view while it is filled, over the side that the network sees."""
SMALLEST = 0.35
"""Least side of a view, as a share of the frame's shorter side."""
WHOLE = 0.25
"""Share of views that see the largest square of the frame."""
TURN, STRETCH = 8.0, 0.12
"""Largest rotation in degrees, and largest relative change of width over height."""
UPSIDE_DOWN = 0.05
"""Share of views that are turned upside down."""
LARGER, RATIO = (0.36, 0.62), (0.55, 1.0)
"""A rectangle's larger side over the view's, and its smaller side over the larger."""
MIDDLE = 0.5
"""Share of rectangles that lie in the middle of the view, as holes that `inpaint` looks at do."""
LIKELY = (0.6, 0.9)
"""Share of a view's fill that is as propagation fills what no frame shows; the rest stands for the mixing network's."""
MEMBRANES = 0.3
"""Share of views whose fill has a membrane's part."""
KINDS = {"rectangle": 0.6, "object": 0.2, "border": 0.1, "strokes": 0.1}
"""Kinds of holes and their shares."""


class Frames(NamedTuple):
    """Frames of clips to put holes on.

    Attributes:
        clips: each clip's frames, uint8 ``[N, h, w, 3]``, a memory map.
        shares: each clip's share of the views.
    """

    clips: list[np.ndarray]
    shares: np.ndarray

    @classmethod
    def of(cls, root: Path, entries: list[dict[str, Any]]) -> Frames:
        """The frames that an index of draws lists.

        Raises:
            UserError: it lists none.
        """
        if not entries:
            raise UserError(f"{root}: its index lists no frames of clips, which fresh views need.")
        shares = np.array([float(entry["share"]) for entry in entries])
        return cls([np.load(root / entry["file"], mmap_mode="r") for entry in entries], shares / shares.sum())

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A frame ``[h, w, 3]``."""
        clip = self.clips[int(rng.choice(len(self.clips), p=self.shares))]
        return np.asarray(clip[int(rng.integers(len(clip)))])


def fresh_view(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A view as the network sees it.

    Args:
        frame: uint8 ``[h, w, 3]``.
        size: the side in pixels of what the network sees.

    Returns:
        uint8 ``[1, size, size, 7]``: truth, fill and doubt, as of a draw. The doubt is 255 where a pixel is wholly
        hidden.
    """
    side = FINE * size
    truth = changed(piece(frame, side, rng), rng)
    hole = hole_of_view(side, rng)
    parts = truth, filled(truth, hole, rng), 255 * hole.astype(np.float32)
    small = [cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA) for part in parts]
    return np.rint(np.dstack(small).clip(0, 255)).astype(np.uint8)[None]


def piece(frame: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a frame, slightly turned and stretched, perhaps mirrored: ``[side, side, 3]``."""
    height, width = frame.shape[:2]
    most = min(height, width)
    own = float(most) if rng.random() < WHOLE else most * rng.uniform(SMALLEST, 1)
    middle = np.array([rng.uniform(own / 2, length - own / 2) for length in (width, height)])
    turn, stretch = np.deg2rad(rng.uniform(-TURN, TURN)), np.exp(rng.uniform(-STRETCH, STRETCH))
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * (own / side)
    axes = axes * [stretch * (-1 if rng.random() < 0.5 else 1), (-1 if rng.random() < UPSIDE_DOWN else 1) / stretch]
    shift = middle - axes @ [(side - 1) / 2, (side - 1) / 2]
    map_back = np.column_stack([axes, shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, map_back, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT)


def hole_of_view(side: int, rng: np.random.Generator) -> np.ndarray:
    """A random hole, bool ``[side, side]``."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "object":
        return object_shape(1, side, rng, 0.0)[0] > 0
    if kind == "border":
        return border(1, side, rng)[0] > 0
    if kind == "strokes":
        return make_holes("strokes", 1, side, side, rng)[0] > 0
    larger = rng.uniform(*LARGER) * side
    sides = [larger, larger * rng.uniform(*RATIO)]
    extent = [max(1, round(length)) for length in (sides if rng.random() < 0.5 else sides[::-1])]
    centred = rng.random() < MIDDLE
    hole = np.zeros((side, side), bool)
    top, left = ((side - n) // 2 if centred else int(rng.integers(0, side - n + 1)) for n in extent)
    hole[top : top + extent[0], left : left + extent[1]] = True
    return hole


def filled(truth: np.ndarray, hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The hole filled by `likely`, mixed with one of OpenCV's methods or a membrane."""
    fills = [opencv(truth, hole, method) for method in (cv2.INPAINT_TELEA, cv2.INPAINT_NS)]
    telea, stokes = (fill[hole] for fill in fills)
    other = harmonic(truth, hole)[hole] if rng.random() < MEMBRANES else (telea, stokes)[int(rng.integers(2))]
    share = np.float32(rng.uniform(*LIKELY))
    result = truth.copy()
    result[hole] = np.rint(share * likely(truth, hole, telea, stokes) + (1 - share) * other)
    return result
