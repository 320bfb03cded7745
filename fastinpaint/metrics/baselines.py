"""What fills holes without learning: the rivals in `fastinpaint evaluate`.

Each takes a video uint8 ``[T, H, W, 3]`` and a mask ``[T, H, W]`` (true = hole), looks at known pixels only and returns
uint8 ``[T, H, W, 3]`` with every known pixel as it was.
"""

from __future__ import annotations

import cv2
import numpy as np

RADIUS = 3
"""Pixels; OpenCV's own examples use it."""


def telea(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fast marching inpainting (Telea 2004) of each frame by itself."""
    return _each_frame(video, mask, cv2.INPAINT_TELEA)


def navier_stokes(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fluid dynamics inpainting (Bertalmio, Bertozzi, Sapiro 2001) of each frame by itself."""
    return _each_frame(video, mask, cv2.INPAINT_NS)


def temporal_median(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each hole pixel becomes the median over time of the values known at its place; Telea where there are none."""
    holes = mask > 0
    result = video.copy()
    somewhere = holes.any(0) & ~holes.all(0)
    known = np.where(holes[:, somewhere, None], np.nan, video[:, somewhere].astype(np.float32))
    if known.size:
        median = np.rint(np.nanmedian(known, 0)).astype(video.dtype)
        result[:, somewhere] = np.where(holes[:, somewhere, None], median, video[:, somewhere])
    return telea(result, np.broadcast_to(holes.all(0), holes.shape))


BASELINES = {"Telea": telea, "Navier-Stokes": navier_stokes, "temporal median": temporal_median}


def _each_frame(video: np.ndarray, mask: np.ndarray, method: int) -> np.ndarray:
    frames = []
    for frame, holes in zip(video, np.ascontiguousarray(mask > 0, np.uint8), strict=True):
        blank = np.where(holes[:, :, None] > 0, 0, frame).astype(np.uint8)  # hole pixels can have no influence
        filled = cv2.inpaint(blank, holes, RADIUS, method)
        frames.append(np.where(holes[:, :, None] > 0, filled, frame))
    return np.stack(frames)
