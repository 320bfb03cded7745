"""Smooth extension of what is known: normalised convolution on a pyramid (pull-push)."""

from __future__ import annotations

import cv2
import numpy as np

FLOOR = 1e-2
"""Weight at which a pixel's own value and its surroundings count alike."""


def extend(values: np.ndarray, weight: np.ndarray, place: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Spread weighted values over the whole plane, smoothly; where the weight is large they stay as they are.

        level l:  a_l = down(a_{l-1}),  w_l = down(w_{l-1}),  a_0 = weight * values
        back up:  v_l = (a_l + FLOOR * up(v_{l+1})) / (w_l + FLOOR)

    Args:
        values: float32 ``[H, W, C]``.
        weight: float32 ``[H, W]``, at least 0.
        place: rows and columns of the pixels that are wanted; None means all.

    Returns:
        float32 ``[H, W, C]``, or ``[N, C]`` for N places; zeros where no weight is positive anywhere.
    """
    joined = cv2.merge([*(plane * weight for plane in cv2.split(values)), weight])
    levels = []
    while min(joined.shape[:2]) > 2:
        levels.append(joined)
        joined = cv2.pyrDown(joined)
    total = joined.reshape(-1, joined.shape[2]).sum(0)
    current = np.empty((*joined.shape[:2], len(total) - 1), np.float32)
    current[:] = total[:-1] / max(float(total[-1]), 1e-9)
    for joined in reversed(levels):
        height, width = joined.shape[:2]
        up = cv2.resize(current, (width, height), interpolation=cv2.INTER_LINEAR)
        if place is not None and joined is levels[0]:
            own = joined[place]
            return (own[:, :-1] + FLOOR * up.reshape(height, width, -1)[place]) / (own[:, -1:] + FLOOR)
        *planes, total_weight = cv2.split(joined)
        norm = total_weight + FLOOR
        current = cv2.merge([(a + FLOOR * b) / norm for a, b in zip(planes, cv2.split(up), strict=True)])
        current = current.reshape(height, width, -1)
    return current if place is None else current[place]
