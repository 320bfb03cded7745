"""What a frame's own surroundings suggest for its holes."""

from __future__ import annotations

import cv2
import numpy as np

from fastinpaint.propagation.pyramid import extend

RADIUS = 3  # pixels, as in OpenCV's examples
DIRECTIONS = 8
REACH = 96
"""Steps at most along a direction to the hole's edge, in pixels of the plane that directions are searched in."""
PLANE = 96
"""Side in pixels that a hole's surroundings are shrunk to at most before directions are searched."""
TOLERANCE = 8.0
"""Grey levels of difference between a line's two ends at which its weight falls to 1/e."""
STEEP = 1.0
"""Grey levels that a pixel of distance to the nearer end counts as much as."""


def opencv(frame: np.ndarray, hole: np.ndarray, method: int) -> np.ndarray:
    """`cv2.inpaint` of uint8 ``[H, W, 3]``; what the frame holds inside the hole has no influence."""
    blank = np.where(hole[..., None], 0, frame).astype(np.uint8)
    return cv2.inpaint(blank, hole.astype(np.uint8), RADIUS, method)


def directional(frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Lines through each hole pixel whose two ends at the hole's edge look alike are drawn through.

        v = sum_d w_d ((1 - t_d) a_d + t_d b_d) / sum_d w_d,   w_d = exp(-(|a_d - b_d| + STEEP min(l_a, l_b)) / TOLERANCE)

    a and b are the colours at the ends of direction d, l_a and l_b the distances to them, t = l_a / (l_a + l_b).

    Returns:
        uint8 ``[H, W, 3]``.
    """
    height, width = hole.shape
    scale = min(1.0, PLANE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        small = directional(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), small_hole)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.where(hole[..., None], large, frame)
    known = (~hole).astype(np.float32)
    sums = cv2.GaussianBlur(np.dstack([frame * known[..., None], known]).astype(np.float32), (0, 0), 1.2)
    colours = sums[..., :3] / np.maximum(sums[..., 3:], 1e-6)
    rows, columns = np.nonzero(hole)
    values, costs = [], []
    for direction in range(DIRECTIONS):
        angle = np.pi * direction / DIRECTIONS
        a, length_a = _end(hole, colours, rows, columns, np.cos(angle), np.sin(angle))
        b, length_b = _end(hole, colours, rows, columns, -np.cos(angle), -np.sin(angle))
        both = np.isfinite(length_a) & np.isfinite(length_b)
        nearer = np.minimum(length_a, length_b)
        share = np.where(both, np.where(both, length_a, 0) / np.maximum(np.where(both, length_a + length_b, 1), 1), np.isinf(length_a))[:, None]
        values.append((1 - share) * a + share * b)
        cost = np.where(both, np.abs(a - b).mean(1) + STEEP * nearer, 25 + 2 * STEEP * nearer)
        costs.append(_smooth(np.minimum(cost, 1e4), hole, rows, columns))
    cost = np.stack(costs)
    weight = np.exp((cost.min(0) - cost) / TOLERANCE)
    filled = frame.copy()
    value = (weight[..., None] * np.stack(values)).sum(0) / weight.sum(0)[:, None]
    filled[rows, columns] = np.rint(value).clip(0, 255).astype(np.uint8)
    return filled


def _end(
    hole: np.ndarray, colours: np.ndarray, rows: np.ndarray, columns: np.ndarray, step_x: float, step_y: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colour ``[N, 3]`` and distance ``[N]`` (inf: the frame ends first) of the first known pixel in a direction."""
    height, width = hole.shape
    colour = np.zeros((len(rows), 3), np.float32)
    length = np.full(len(rows), np.inf, np.float32)
    alive = np.arange(len(rows))
    for distance in range(1, REACH * 2):
        y = np.rint(rows[alive] + distance * step_y).astype(np.int32)
        x = np.rint(columns[alive] + distance * step_x).astype(np.int32)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        alive, x, y = alive[inside], x[inside], y[inside]
        ended = ~hole[y, x]
        colour[alive[ended]] = colours[y[ended], x[ended]]
        length[alive[ended]] = distance
        alive = alive[~ended]
        if not len(alive):
            break
    return colour, length


def _smooth(values: np.ndarray, hole: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    plane = np.zeros((*hole.shape, 2), np.float32)
    plane[rows, columns, 0], plane[rows, columns, 1] = values, 1
    sums = cv2.GaussianBlur(plane, (0, 0), 2.0)[rows, columns]
    return sums[:, 0] / sums[:, 1]


def contrast(frame: np.ndarray, hole: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How much known pixels nearby differ from the mean around them, at two scales: float32 ``[N, 2]``, grey levels.

        c_s = extend(|I - G_s * I|),  s = 2 and 6 pixels; G_s is a Gaussian over known pixels
    """
    known = (~hole).astype(np.float32)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    planes = []
    for sigma in (2.0, 6.0):
        sums = cv2.GaussianBlur(np.dstack([grey * known, known]), (0, 0), sigma)
        planes.append(np.abs(grey - sums[..., 0] / np.maximum(sums[..., 1], 1e-6)))
    return extend(cv2.blur(np.dstack(planes) * known[..., None], (5, 5)) / np.maximum(cv2.blur(known, (5, 5)), 1e-3)[..., None], known)[rows, columns]
