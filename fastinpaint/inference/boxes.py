"""Rectangles as holes: fixed, in pixels or per cent, or moving from key frame to key frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fastinpaint.errors import UserError

MOST = 1e9
SOON = 0.001  # seconds by which a frame may lie outside the first and the last key frame


class Length(NamedTuple):
    """A number of pixels, or a percentage of the frame's width or height."""

    value: float
    per_cent: bool = False

    def pixels(self, side: int) -> float:
        return self.value * side / 100 if self.per_cent else self.value

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.per_cent else ''}"


class HoleBox(NamedTuple):
    """A rectangle in the frame as shown, and the second at which a moving one is there."""

    x: Length
    y: Length
    width: Length
    height: Length
    seconds: float | None = None

    def __str__(self) -> str:
        key = "" if self.seconds is None else f"@{self.seconds:g}"
        return ",".join(str(length) for length in self[:4]) + key

    def corners(self, frame: tuple[int, int]) -> np.ndarray:
        """float64 (x0, y0, x1, y1) in pixels of a frame of (height, width)."""
        height, width = frame
        x, y = self.x.pixels(width), self.y.pixels(height)
        return np.array([x, y, x + self.width.pixels(width), y + self.height.pixels(height)])


def parse_box(text: str) -> HoleBox:
    """A box from `X,Y,W,H` or `X,Y,W,H@SECONDS`; each of the four may end with %.

    Raises:
        UserError: the text is not a box.
    """
    place, at, seconds = text.partition("@")
    try:
        lengths = [
            Length(float(part.removesuffix("%")), part.endswith("%")) for part in map(str.strip, place.split(","))
        ]
        x, y, width, height = lengths
        box = HoleBox(x, y, width, height, float(seconds) if at else None)
    except ValueError:
        raise UserError(f"box must be x,y,width,height in pixels or per cent, got {text!r}.") from None
    if not all(abs(number) <= MOST for number in (*(length.value for length in lengths), box.seconds or 0.0)):
        raise UserError(f"box must have numbers up to {MOST:g}, got {text!r}.")
    return box


class Boxes:
    """The union of boxes at any time, as masks of the frame as shown.

    Boxes without a time are in every frame. Those with one are key frames of one box, which moves linearly from one
    to the next and is there from the first to the last.

    Args:
        boxes: `HoleBox`es, or (x, y, width, height) in pixels.
        frame: (height, width) of the frame as shown, in pixels.
        notify: is given each sentence that a person should read.

    Raises:
        UserError: a box without pixels in the frame, one key frame alone, or two at one time.
    """

    def __init__(
        self,
        boxes: Sequence[HoleBox | tuple[int, int, int, int]],
        frame: tuple[int, int],
        notify: Callable[[str], None],
    ) -> None:
        self._frame = frame
        self._fixed = np.zeros(frame, bool)
        self._keys: list[tuple[float, np.ndarray]] = []
        for box in map(_as_box, boxes):
            corners = self._inside(box, notify)
            if box.seconds is None:
                self._draw(self._fixed, corners)
            else:
                self._keys.append((box.seconds, corners))
        self._keys.sort(key=lambda key: key[0])
        if len(self._keys) == 1:
            raise UserError("a box with @SECONDS is a key frame of a moving box, which needs at least two; got one.")
        for (before, _), (after, _) in pairwise(self._keys):
            if before == after:
                raise UserError(f"boxes with @SECONDS are key frames of one box; two are at {after:g} s.")

    @property
    def moves(self) -> bool:
        return bool(self._keys)

    def at(self, seconds: float) -> np.ndarray:
        """bool [H, W], True in a box, at a time from the first frame on."""
        for (before, first), (after, second) in pairwise(self._keys):
            if before - SOON <= seconds <= after + SOON:
                mask = self._fixed.copy()
                share = min(max((seconds - before) / (after - before), 0), 1)
                self._draw(mask, (1 - share) * first + share * second)
                return mask
        return self._fixed

    def _inside(self, box: HoleBox, notify: Callable[[str], None]) -> np.ndarray:
        """The box's corners. Gives a note if the frame's edge cuts the box."""
        height, width = self._frame
        corners = box.corners(self._frame)
        x0, y0, x1, y1 = corners
        size = f"the video's {width}x{height} pixels"
        if x1 - x0 <= 0 or y1 - y0 <= 0:
            raise UserError(f"box {box} (x,y,width,height): must be wider and higher than 0.")
        if min(x1, width) - max(x0, 0) < 0.5 or min(y1, height) - max(y0, 0) < 0.5:
            raise UserError(f"box {box} (x,y,width,height): must lie inside {size}, at least in part.")
        if x0 < 0 or y0 < 0 or x1 > width + 0.5 or y1 > height + 0.5:
            notify(f"box {box} reaches beyond {size} and is cut there.")
        return corners

    def _draw(self, mask: np.ndarray, corners: np.ndarray) -> None:
        x0, y0, x1, y1 = (max(0, round(float(value))) for value in corners)
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True


def _as_box(box: HoleBox | tuple[int, int, int, int]) -> HoleBox:
    if isinstance(box, HoleBox):
        return box
    x, y, width, height = (Length(value) for value in box)
    return HoleBox(x, y, width, height)
