"""Where the holes are: boxes, one image, a folder of images or a video, as one mask a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.reader import VideoReader
from fastinpaint.data.video import is_image, open_video
from fastinpaint.errors import UserError

THRESHOLD = 128
"""A pixel is white, hence a hole, where any of its channels is at least this; compressed masks are not pure."""


class Masks:
    """An iterator over bool [H, W] masks, True = hole, in the orientation in which `video` stores its frames.

    Boxes and masks are given in the orientation in which the video is shown; the two differ for a video that carries
    a rotation. A mask of the stored size is taken as it is where the two sizes differ.

    Args:
        video: what the masks are for.
        path: an image (for all frames), or a folder of images or a video (one for each frame); or None.
        boxes: (x, y, width, height) in pixels, in place of `path`.
        invert: black is the hole.
        resize: scale masks of another size to the video's.

    Attributes:
        name: for messages.
        length_hint: how many masks there are as far as known; None where it is one for all frames, or unknown.

    Raises:
        UserError: neither or both of path and boxes; a box outside the frame; a mask that cannot be read or of
            another size; one mask for all frames with no hole in it.
    """

    def __init__(
        self,
        video: VideoReader,
        path: str | Path | None = None,
        boxes: Sequence[tuple[int, int, int, int]] = (),
        *,
        invert: bool = False,
        resize: bool = False,
    ) -> None:
        if (path is None) == (not boxes):
            raise UserError(f"a mask or a box is needed, and not both; got {'neither' if path is None else 'both'}.")
        self._orientation = video.orientation
        self._stored = (video.height, video.width)
        self._shown = self._stored[::-1] if self._orientation.swapped else self._stored
        self._invert, self._resize = invert, resize
        self._reader: VideoReader | None = None
        self.length_hint: int | None = None
        self._masks: Iterator[np.ndarray]
        if path is None:
            self.name = "the boxes"
            self._masks = self._same_for_all(self._draw(boxes))
            return
        self.name = str(path)
        self._reader = open_video(path)
        if is_image(Path(path)) and Path(path).is_file():
            self._masks = self._same_for_all(self._read(next(self._reader).rgb))
        else:
            self._masks = (self._read(self._reader.orientation.shown(frame.rgb)) for frame in self._reader)
            self.length_hint = self._reader.length_hint

    def __iter__(self) -> Masks:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._masks)

    def __enter__(self) -> Masks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()

    def _same_for_all(self, mask: np.ndarray) -> Iterator[np.ndarray]:
        if not mask.any():
            raise UserError(no_hole(self.name, self._invert))
        return repeat(mask)

    def _draw(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
        height, width = self._shown
        mask = np.full(self._shown, self._invert)
        for x, y, w, h in boxes:
            if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
                raise UserError(
                    f"box {x},{y},{w},{h} (x,y,width,height): must lie inside the video's {width}x{height} pixels "
                    "and be at least 1x1."
                )
            mask[y : y + h, x : x + w] = not self._invert
        return self._turned(mask)

    def _read(self, rgb: np.ndarray) -> np.ndarray:
        """A picture as mask."""
        white = rgb.max(2)
        if white.shape == self._shown:
            return self._turned((white >= THRESHOLD) != self._invert)
        if white.shape == self._stored:
            return (white >= THRESHOLD) != self._invert
        height, width = self._shown
        if not self._resize:
            raise UserError(
                f"{self.name}: the mask must have the video's size, {width}x{height}, and has "
                f"{white.shape[1]}x{white.shape[0]}; --mask-resize scales it."
            )
        white = cv2.resize(white, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        return self._turned((white >= THRESHOLD) != self._invert)

    def _turned(self, mask: np.ndarray) -> np.ndarray:
        """From the orientation shown to the one stored."""
        return np.ascontiguousarray(self._orientation.stored(mask))


def no_hole(name: str, invert: bool) -> str:
    """The sentence for a mask that leaves nothing to do."""
    colour, whole = ("black", "white") if invert else ("white", "black")
    return f"{name}: the mask must have a {colour} pixel somewhere, where the hole is; it is {whole} throughout."


def count_frames(path: str | Path) -> int:
    """The number of frames of a video or folder, by reading it through."""
    with open_video(path) as reader:
        return sum(1 for _ in reader)
