"""Smooth extension of what is known: normalised convolution on a pyramid (pull-push)."""

from __future__ import annotations

import cv2
import numpy as np

FLOOR = 1e-2
"""Weight at which a pixel's own value and its surroundings count alike."""


def extend(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Spread weighted values over the whole plane, smoothly; where the weight is large they stay as they are.

        level l:  a_l = down(a_{l-1}),  w_l = down(w_{l-1}),  a_0 = weight * values
        back up:  v_l = (a_l + FLOOR * up(v_{l+1})) / (w_l + FLOOR)

    Args:
        values: float32 ``[H, W, C]``.
        weight: float32 ``[H, W]``, at least 0.

    Returns:
        float32 ``[H, W, C]``; zeros where no weight is positive anywhere.
    """
    joined = cv2.merge([values * weight[..., None], weight])
    levels = []
    while min(joined.shape[:2]) > 2:
        levels.append(joined)
        joined = cv2.pyrDown(joined)
    total = joined.reshape(-1, joined.shape[2]).sum(0)
    current = np.broadcast_to(total[:-1] / max(float(total[-1]), 1e-9), (*joined.shape[:2], len(total) - 1))
    for joined in reversed(levels):
        height, width = joined.shape[:2]
        up = cv2.resize(np.ascontiguousarray(current), (width, height), interpolation=cv2.INTER_LINEAR)
        up = up.reshape(height, width, -1)
        current = (joined[..., :-1] + FLOOR * up) / (joined[..., -1:] + FLOOR)
    return np.ascontiguousarray(current, np.float32)
