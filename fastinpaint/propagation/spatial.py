"""What a frame's own surroundings suggest for its holes."""

from __future__ import annotations

import cv2
import numpy as np

from fastinpaint.propagation.pyramid import extend

RADIUS = 3  # pixels, as in OpenCV's examples
DIRECTIONS = 8
NOTHING = 1e4
"""Cost of a direction along which the frame ends before the hole does."""
PLANE = 112
"""Side in pixels that a hole's surroundings are shrunk to at most before directions are searched."""
TOLERANCE = 8.0
"""Grey levels of difference between a line's two ends at which its weight falls to 1/e."""
STEEP = 1.0
"""Grey levels that a pixel of distance to the nearer end counts as much as."""

MEMBRANE = 96
"""Side in pixels that a hole's surroundings are shrunk to at most before the membrane is computed."""
SWEEPS = 24
"""Jacobi iterations at each size of the membrane."""
NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def opencv(frame: np.ndarray, hole: np.ndarray, method: int) -> np.ndarray:
    """`cv2.inpaint` of uint8 ``[H, W, 3]``; what the frame holds inside the hole has no influence."""
    blank, mask = np.where(hole[..., None], 0, frame).astype(np.uint8), hole.astype(np.uint8)
    if min(hole.shape) == 1:  # OpenCV reads beyond the end of a single row
        blank, mask = (np.pad(plane, [(0, 1), (0, 1), (0, 0)][: plane.ndim], "edge") for plane in (blank, mask))
    return cv2.inpaint(blank, mask, RADIUS, method)[: hole.shape[0], : hole.shape[1]]


def harmonic(frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The membrane over the hole: every pixel is the mean of its four neighbours.

    The equation is solved from a coarse copy to finer ones, by `SWEEPS` Jacobi iterations on each.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    height, width = hole.shape
    scale = min(1.0, MEMBRANE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    known = (~hole).astype(np.float32)
    sums = cv2.resize(cv2.merge([frame * known[..., None], known]), size, interpolation=cv2.INTER_AREA)
    levels = [sums]
    while min(levels[-1].shape[:2]) > 4:
        half = (-(-levels[-1].shape[1] // 2), -(-levels[-1].shape[0] // 2))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    total = levels[-1].reshape(-1, 4).sum(0)
    current = np.empty((*levels[-1].shape[:2], 3), np.float32)
    current[:] = total[:3] / max(float(total[3]), 1e-6)
    for level in reversed(levels):
        current = cv2.resize(current, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        fixed = level[..., 3] > 0
        current[fixed] = level[fixed][:, :3] / level[fixed][:, 3:]
        rows, columns = np.nonzero(~fixed)
        for _ in range(SWEEPS):
            mean = cv2.filter2D(current, -1, NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
            current[rows, columns] = mean[rows, columns]
    large = cv2.resize(current, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(hole[..., None], np.rint(large).clip(0, 255).astype(np.uint8), frame)


def directional(frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Lines through each hole pixel whose two ends at the hole's edge look alike are drawn through.

        v = sum_d w_d ((1 - t_d) a_d + t_d b_d) / sum_d w_d
        w_d = exp(-(|a_d - b_d| + STEEP min(l_a, l_b)) / TOLERANCE)

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
    sums = cv2.GaussianBlur(cv2.merge([frame * known[..., None], known]), (0, 0), 1.2)
    colours = sums[..., :3] / np.maximum(sums[..., 3:], 1e-6)
    rows, columns = np.nonzero(hole)
    values, costs = [], []
    for direction in range(DIRECTIONS):
        value, cost = _along(hole, colours, 180.0 * direction / DIRECTIONS, rows, columns)
        values.append(value)
        costs.append(_smooth(cost, hole, rows, columns))
    cost = np.stack(costs)
    weight = np.exp((cost.min(0) - cost) / TOLERANCE)
    filled = frame.copy()
    value = (weight[..., None] * np.stack(values)).sum(0) / weight.sum(0)[:, None]
    filled[rows, columns] = np.rint(value).clip(0, 255).astype(np.uint8)
    return filled


def _along(
    hole: np.ndarray, colours: np.ndarray, angle: float, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours ``[N, 3]`` of the hole pixels by lines at an angle (degrees), and their costs ``[N]``.

    The frame is turned so that the lines become rows; running extrema then find the known pixel on either side.
    """
    height, width = hole.shape
    side = int(np.ceil(np.hypot(height, width))) + 2
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    turn[:, 2] += (side - width) / 2, (side - height) / 2
    state = cv2.warpAffine(
        np.where(hole, np.uint8(1), np.uint8(2)), turn, (side, side), flags=cv2.INTER_NEAREST, borderValue=0
    )  # 1 hole, 2 known, 0 outside
    turned = cv2.warpAffine(colours, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    place = np.broadcast_to(np.arange(side, dtype=np.int32), state.shape)
    left = np.maximum.accumulate(np.where(state == 2, place, -1), 1)
    right = np.minimum.accumulate(np.where(state == 2, place, side)[:, ::-1], 1)[:, ::-1]
    y, x = np.nonzero(state == 1)
    left, right = left[y, x], right[y, x]
    a, b = turned[y, left.clip(0)], turned[y, right.clip(0, side - 1)]
    has_a, has_b = left >= 0, right < side
    length_a, length_b = (x - left).astype(np.float32), (right - x).astype(np.float32)
    both = has_a & has_b
    share = np.where(both, length_a / (length_a + length_b), ~has_a & has_b)[:, None]
    nearer = np.where(both, np.minimum(length_a, length_b), np.where(has_a, length_a, length_b))
    cost = np.where(both, np.abs(a - b).mean(1) + STEEP * nearer, 25 + 2 * STEEP * nearer)
    cost = np.where(has_a | has_b, cost, NOTHING)
    plane = np.zeros((side, side, 4), np.float32)
    plane[..., 3] = NOTHING
    plane[y, x, :3], plane[y, x, 3] = (1 - share) * a + share * b, np.minimum(cost, NOTHING)
    at = np.stack([columns, rows], 1) @ turn[:, :2].T + turn[:, 2]
    back = np.rint(at).astype(np.int32)
    found = plane[back[:, 1].clip(0, side - 1), back[:, 0].clip(0, side - 1)]
    return found[:, :3], found[:, 3]


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
    norm = np.maximum(cv2.blur(known, (5, 5)), 1e-3)
    means = cv2.merge([cv2.blur(plane * known, (5, 5)) / norm for plane in planes])
    return extend(means, known, (rows, columns))
