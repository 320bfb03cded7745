"""Reads clips as evaluation samples: the first frames of a file, cropped to a square and scaled."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.memory import require

COPIES = 2
"""Copies of a clip that an evaluation holds at least: its frames, and a method's result."""


def read_clip(path: str | Path, frames: int, size: int) -> np.ndarray:
    """Read the centre square of a video's first frames.

    Args:
        frames: the most frames to read.
        size: side of the square after scaling, in pixels; 0 keeps whole frames.

    Returns:
        uint8 ``[T, size, size, 3]``, or ``[T, H, W, 3]`` for size 0.

    Raises:
        UserError: `frames` or `size` is out of range, or the file cannot be read.
    """
    if frames < 1 or size < 0:
        raise UserError(f"evaluate: needs at least 1 frame and a size of at least 0, got {frames} and {size}.")
    with open_video(path) as reader:
        count = min(frames, reader.length_hint or 1)
        width, height = (size, size) if size else (reader.width, reader.height)
        require(f"evaluate: {count} frames of {width}x{height} of {path}", COPIES * 3.0 * count * width * height)
        return np.stack([_square(frame.rgb, size) for frame in islice(reader, frames)])


def _square(frame: np.ndarray, size: int) -> np.ndarray:
    if size == 0:
        return frame
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(frame[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
