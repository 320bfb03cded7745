"""Baselines without learning for `fastinpaint evaluate`.

Each takes a video uint8 ``[T, H, W, 3]`` and a mask ``[T, H, W]`` (true = hole), reads known pixels only, and returns
uint8 ``[T, H, W, 3]`` with all known pixels unchanged.
"""

from __future__ import annotations

import cv2
import numpy as np

RADIUS = 3
"""Radius in pixels, as in OpenCV's own examples."""


def telea(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fast marching inpainting (Telea 2004), frame by frame."""
    return _each_frame(video, mask, cv2.INPAINT_TELEA)


def navier_stokes(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fluid dynamics inpainting (Bertalmio, Bertozzi, Sapiro 2001), frame by frame."""
    return _each_frame(video, mask, cv2.INPAINT_NS)


def temporal_median(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each hole pixel becomes the median over time of the known values at its place; Telea where there are none."""
    holes = mask > 0
    result = video.copy()
    somewhere = holes.any(0) & ~holes.all(0)
    known = np.where(holes[:, somewhere, None], np.nan, video[:, somewhere].astype(np.float32))
    if known.size:
        median = np.rint(np.nanmedian(known, 0)).astype(video.dtype)
        result[:, somewhere] = np.where(holes[:, somewhere, None], median, video[:, somewhere])
    return telea(result, np.broadcast_to(holes.all(0), holes.shape))


def nearest_in_time(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Interpolate each hole pixel from the nearest frames before and after that show its place; Telea if none does.

    v = (v_before / d_before + v_after / d_after) / (1 / d_before + 1 / d_after),   d in frames
    """
    holes = mask > 0
    total, weight = np.zeros(video.shape, np.float32), np.zeros((*holes.shape, 1), np.float32)
    for order in (range(len(video)), range(len(video) - 1, -1, -1)):
        latest, age = np.zeros(video.shape[1:], np.float32), np.full(holes.shape[1:], np.inf, np.float32)
        for t in order:
            latest, age = np.where(holes[t, ..., None], latest, video[t]), np.where(holes[t], age + 1, 0)
            share = (1 / np.maximum(age, 1))[..., None]
            total[t] += share * latest
            weight[t] += share
    shown = weight[..., 0] > 0
    mean = np.rint(total / np.maximum(weight, 1e-9)).astype(video.dtype)
    return telea(np.where((holes & shown)[..., None], mean, video), holes & ~shown)


BASELINES = {
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "temporal median": temporal_median,
    "nearest in time": nearest_in_time,
}


def _each_frame(video: np.ndarray, mask: np.ndarray, method: int) -> np.ndarray:
    frames = []
    for frame, holes in zip(video, np.ascontiguousarray(mask > 0, np.uint8), strict=True):
        blank = np.where(holes[:, :, None] > 0, 0, frame).astype(np.uint8)  # hole pixels must have no influence
        filled = cv2.inpaint(blank, holes, RADIUS, method)
        frames.append(np.where(holes[:, :, None] > 0, filled, frame))
    return np.stack(frames)
