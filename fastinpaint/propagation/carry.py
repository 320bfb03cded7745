"""Where the pixels of a hole come from: known pixels followed along a motion, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

Place = tuple[np.ndarray, np.ndarray]


class Source(NamedTuple):
    """For each hole pixel of one frame: the frame that shows it and the place there. All ``[N]``.

    Attributes:
        frame: int32, -1 where no frame shows it.
        x, y: float32, pixels.
    """

    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray


def carry(
    hole: np.ndarray, places: Sequence[Place], motion: Sequence[np.ndarray | None] | None, step: int, starts: np.ndarray
) -> list[Source]:
    """Follow hole pixels, frame by frame, to the nearest frame that shows them.

    A hole pixel of frame t at p is found in frame t-step at p + motion(p). If that is known, it is the source; if it is
    a hole, the source of its nearest pixel, moved by the rest. So a source is sampled once however long the way is,
    and a motion of zero copies pixels exactly. Costs are linear in hole pixels.

    Args:
        hole: bool ``[T, H, W]``.
        places: for each frame rows and columns of its hole pixels.
        motion: for each frame ``[N, 2]`` to frame t-step, or None for no motion at all.
        step: 1 looks into the past, -1 into the future.
        starts: bool ``[T]``, whether a frame is the first of a scene; nothing is carried across.
    """
    count, height, width = hole.shape
    shown = np.full(height * width, -1, np.int32)
    at_x, at_y = np.zeros((2, height * width), np.float32)
    found = [
        Source(np.full(len(rows), -1, np.int32), columns.astype(np.float32), rows.astype(np.float32))
        for rows, columns in places
    ]
    for t in range(count) if step > 0 else range(count - 1, -1, -1):
        rows, columns = places[t]
        before = t - step
        if 0 <= before < count and not starts[max(t, before)]:
            x, y = found[t].x, found[t].y
            moved = None if motion is None else motion[t]
            if moved is not None:
                x, y = x + moved[:, 0], y + moved[:, 1]
            near_x, near_y = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
            inside = (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
            near_x, near_y = near_x.clip(0, width - 1), near_y.clip(0, height - 1)
            near = near_y * np.int32(width) + near_x
            hidden = hole[before].ravel().take(near)
            frame = np.where(inside, np.where(hidden, shown.take(near), np.int32(before)), np.int32(-1))
            x = np.where(hidden, at_x.take(near) + x - near_x, x)
            y = np.where(hidden, at_y.take(near) + y - near_y, y)
            found[t] = Source(frame, x.astype(np.float32), y.astype(np.float32))
        place = rows * width + columns
        shown[place], at_x[place], at_y[place] = found[t]
    return found


class Mosaic:
    """The frames of a clip one below another, so that one call samples from all of them.

    Args:
        video: uint8 ``[T, H, W, 3]``, which is copied.

    Attributes:
        frames: the copy, uint8 ``[T, H, W, 3]``.
    """

    PAD = 2  # rows repeated above and below each frame, as far as cubic taps reach
    ROWS = 32_000  # OpenCV counts rows in 16 bits

    def __init__(self, video: np.ndarray) -> None:
        count, self.height, self.width = video.shape[:3]
        self.stride = self.height + 2 * self.PAD
        per = max(1, self.ROWS // self.stride)
        padded = np.empty((count, self.stride, *video.shape[2:]), np.uint8)
        self.frames = padded[:, self.PAD : -self.PAD]
        self.frames[:] = video
        self._above, self._below = padded[:, : self.PAD], padded[:, -self.PAD :]
        self._repeat_edges()
        self.per = per
        self.sheets = [
            padded[start : start + per].reshape(-1, self.width, video.shape[3]) for start in range(0, count, per)
        ]

    def write(self, places: Sequence[Place], values: Sequence[np.ndarray]) -> None:
        """Set pixels of every frame, given by rows and columns, to uint8 ``[N, 3]``."""
        for frame, place, value in zip(self.frames, places, values, strict=True):
            frame[place] = value
        self._repeat_edges()

    def _repeat_edges(self) -> None:
        self._above[:], self._below[:] = self.frames[:, :1], self.frames[:, -1:]

    def sample(self, frame: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bicubic samples, uint8 ``[N, 3]``, at (x, y) of the frames ``[N]``; zeros for frame -1."""
        out = np.zeros((len(frame), self.sheets[0].shape[2]), np.uint8)
        y = y.clip(0, self.height - 1)
        x = x.clip(0, self.width - 1)
        for number, sheet in enumerate(self.sheets):
            mine = (frame >= number * self.per) & (frame < (number + 1) * self.per)
            if mine.any():
                row = y[mine] + ((frame[mine] - number * self.per) * self.stride + self.PAD)
                out[mine] = _remap(sheet, x[mine], row.astype(np.float32))
        return out


def _remap(sheet: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width = 256
    count = len(x)
    pad = -count % width
    x, y = (np.pad(values, (0, pad)).reshape(-1, width) for values in (x, y))
    sampled = cv2.remap(sheet, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(-1, sheet.shape[2])[:count]
