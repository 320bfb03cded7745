"""Which pixels of a mask's picture are holes: white ones, labels or transparency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastinpaint.data.reader import Frame
from fastinpaint.errors import UserError
from fastinpaint.inference.pixels import layout_of, samples, what_it_holds
from fastinpaint.inference.planes import convert

THRESHOLD = 128
"""A pixel is white, hence a hole, where any of its channels is at least this; compressed masks are not pure."""

LABELS = 32
"""A picture of at most so many values is a map of labels where all are dark."""

CHANNELS = ("auto", "colour", "red", "green", "blue", "alpha")
EXACT_SUFFIXES = frozenset({".png", ".bmp", ".ppm", ".tif", ".tiff"})
"""Images without compression noise, in which a small value has a meaning."""


class MaskPictures:
    """Turns pictures into masks, all by one rule, and notes once which rule it is.

    Args:
        name: of the masks, for messages.
        channel: one of `CHANNELS`. "auto" is alpha where that is not the same throughout, else colour.
        label: take pixels of this palette index or grey value, instead of white ones.
        notify: is given each sentence that a person should read.
    """

    def __init__(self, name: str, channel: str, label: int | None, notify: Callable[[str], None]) -> None:
        self._name, self._channel, self._label = name, channel, label
        self._notify = notify
        self._told: set[str] = set()

    def hole(self, frame: Frame, path: Path) -> np.ndarray:
        """bool [H, W] for one picture; `path` is the image it comes from, or the video."""
        if self._label is not None:
            return _labels(frame, self._name) == self._label
        channel = self._channel
        if channel in ("auto", "alpha") and what_it_holds(frame.picture.format.name).alpha:
            alpha = samples(convert(frame.picture, "rgba"))["a"]
            if channel == "alpha" or (alpha != alpha.flat[0]).any():
                self._tell(
                    "the mask is taken from its transparency: opaque is hole. --mask-channel colour is for white."
                )
                return np.array(alpha >= THRESHOLD)
        if channel == "alpha":
            raise UserError(
                f"{self._name}: --mask-channel alpha needs pictures with transparency, and these have none."
            )
        if channel in ("red", "green", "blue"):
            return np.array(frame.rgb[..., ("red", "green", "blue").index(channel)] >= THRESHOLD)
        white = frame.rgb.max(2) >= THRESHOLD
        if path.suffix.lower() not in EXACT_SUFFIXES:
            return np.array(white)
        return self._dark_labels(frame, white)

    def _dark_labels(self, frame: Frame, white: np.ndarray) -> np.ndarray:
        """Every value but 0, if the picture is a map of few labels; else the white pixels."""
        palette = frame.picture.format.name == "pal8"
        values = frame.rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32) if palette else _grey(frame)
        used = np.unique(values)
        if len(used) > LABELS or not used.any() or not (palette or used[-1] < THRESHOLD):
            return white
        hole = np.array(values != 0)
        if (hole != white).any():
            self._tell(
                "the mask holds a few dark values, and is taken for labels: all but 0 are hole. --label picks one."
            )
        return hole

    def _tell(self, note: str) -> None:
        if note not in self._told and self._channel != "alpha":
            self._told.add(note)
            self._notify(f"{self._name}: {note}")


def _grey(frame: Frame) -> np.ndarray:
    """The picture's own values if it is grey (16 bits too), else the brightest channel."""
    name = frame.picture.format.name
    if what_it_holds(name).gray and layout_of(name) is not None:
        return samples(frame.picture)["y"]
    return np.array(frame.rgb.max(2))


def _labels(frame: Frame, name: str) -> np.ndarray:
    """Palette indices or grey values, [H, W]."""
    picture: Any = frame.picture
    if picture.format.name == "pal8":
        plane = picture.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
        return rows[: picture.height, : picture.width]
    grey = (frame.rgb == frame.rgb[..., :1]).all()
    if not grey:
        raise UserError(
            f"{name}: --label takes the index of a palette or a grey value; this picture has colours instead."
        )
    return _grey(frame)
