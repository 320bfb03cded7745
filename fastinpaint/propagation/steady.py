"""Keeping what no frame shows from flickering: doubtful pixels are averaged along their own motion."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import Motion

KEEP = 0.85
"""Share of what is carried along in the average: about 1 / (1 - KEEP) frames of each side take part."""


def steady(
    filled: np.ndarray, doubts: Sequence[np.ndarray], motion: Motion, places: Sequence[Place], starts: np.ndarray
) -> list[np.ndarray]:
    """Average hole pixels over time along their motion, as much as they are doubtful.

        m_t(p) = v_t(p) + KEEP d_{t-1}(q) (m_{t-1}(q) - v_t(p)),   q = p + motion_t(p)

    from the past, and likewise from the future; the result is v + d ((m_past + m_future) / 2 - v). d is 0 for known
    pixels and 1 for what no frame shows.

    Args:
        filled: uint8 ``[T, H, W, 3]``.
        doubts: for each frame d of its hole pixels, float32 ``[N]``.
        motion: of the hole pixels.
        places: rows and columns of the hole pixels of each frame.
        starts: bool ``[T]``, the first frames of scenes.

    Returns:
        for each frame its hole pixels, float32 ``[N, 3]``.
    """
    count = len(filled)
    values = [filled[t][places[t]].astype(np.float32) for t in range(count)]
    means = [np.zeros_like(value) for value in values]
    for flows, order, step in ((motion.past, range(count), 1), (motion.future, range(count - 1, -1, -1), -1)):
        plane = np.zeros((*filled.shape[1:3], 4), np.float32)
        for t in order:
            rows, columns = places[t]
            mean, flow = values[t].copy(), flows[t]
            if len(rows) and flow is not None and 0 <= t - step < count and not starts[max(t, t - step)]:
                carried = _sample(plane, columns + flow[:, 0], rows + flow[:, 1])
                mean += KEEP * carried[:, 3:] * (carried[:, :3] - mean)
            plane[..., :3], plane[..., 3] = filled[t], 0
            plane[rows, columns] = np.column_stack([mean, doubts[t]])
            means[t] += mean / 2
    return [v + d[:, None] * (m - v) for v, d, m in zip(values, doubts, means, strict=True)]


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width, count = 256, len(x)
    x, y = (np.pad(values.astype(np.float32), (0, -count % width)).reshape(-1, width) for values in (x, y))
    sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(-1, image.shape[2])[:count]
