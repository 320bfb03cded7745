"""The held-out clip of the demo: a scene, a scribble that drifts over it, and the mask that marks the scribble."""

from __future__ import annotations

import cv2
import numpy as np

from fastinpaint.data.holes import make_holes
from fastinpaint.data.synthetic import synthetic_clip

INK = (235, 60, 45)


def scribbled_scene(seed: int, frames: int, size: int, band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A clip without and with a scribble, and the scribble's mask.

    The scribble fills bands across the frame, each `band` pixels high, with strokes as wide as those of a training
    clip of that size. The mask is one pixel wider than the ink, since compression smears its edge.

    Returns:
        truth and clip, uint8 [T, size, size, 3], and mask, bool [T, size, size].
    """
    truth = synthetic_clip(seed, frames, size)
    rng = np.random.default_rng(seed)
    mask = np.zeros(truth.shape[:3], bool)
    for top in range(0, size - band + 1, band):
        mask[:, top : top + band] = make_holes("strokes", frames, band, size, rng)
    clip = truth.copy()
    for frame, hole in zip(clip, mask, strict=True):
        frame[cv2.erode(hole.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = INK
    return truth, clip, mask
