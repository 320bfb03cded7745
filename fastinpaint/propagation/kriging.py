"""What a hole holds of which nothing is known: kriging from the colours around it, kept near OpenCV's fills."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation.spatial import opencv

SIDE = 64
"""Side in pixels that a hole's surroundings are shrunk to at most."""
RING = 1.5
"""Width in shrunk pixels of the ring of known pixels around the hole that colours come from. A wider one has fewer of
the pixels next to the hole among its `POINTS`: with 3, single frames err by 0.5 % more, and strokes by 1 %."""
POINTS = 98
"""Pixels of the ring that are used, at most. From a hundred unknowns on OpenCV solves by a library whose threads hang
when two frames are filled at a time. With 320, single frames err by 1 % less."""
NUGGET = 0.1
"""Noise of the ring's colours, in the unit of the distance in shrunk pixels."""
LAG = 10
"""Shrunk pixels between those whose differences say how much faster colours change along one axis than the other."""
FLAT = 0.5
"""Grey levels added to both mean differences: noise has no direction."""
STRETCH = 2.0
"""Largest factor by which distances along one axis are stretched, and those along the other shrunk."""
DEEP = 16.0
"""Depth in shrunk pixels from which on the stretched fill stands for OpenCV's two. Strokes are never as deep."""
LIMIT = 4.0
"""Multiple of the mean difference between OpenCV's two fills by which kriging may leave the span of both. Where a hole
lies in flat colours, these agree and are right, and kriging mixes what lies on either side of an edge."""


class Shrunk(NamedTuple):
    """A hole's surroundings, seen at `SIDE` pixels at most.

    Attributes:
        plane: colours of what is known, float32 ``[h, w, 3]``.
        wanted: bool ``[h, w]``, pixels that are mostly hidden.
        ratio: how much faster colours change down than across, from 1 / `STRETCH` to `STRETCH`.
    """

    plane: np.ndarray
    wanted: np.ndarray
    ratio: float


def likely(frame: np.ndarray, hole: np.ndarray, telea: np.ndarray, stokes: np.ndarray) -> np.ndarray:
    """A fill for pixels of which nothing is known: the mean of OpenCV's fills and of kriging.

        v = (m + clip(k, min(t, s) - d, max(t, s) + d)) / 2,   d = LIMIT mean |t - s|
        m = (t + s) / 2 + min(depth / DEEP, 1) (u - (t + s) / 2)

    k is the `kriged` fill, u the `stretched` one.

    Args:
        frame: uint8 ``[H, W, 3]``; what it holds inside the hole has no influence.
        hole: bool ``[H, W]``.
        telea, stokes: OpenCV's fills t and s of the hole's pixels, uint8 ``[N, 3]``.

    Returns:
        float32 ``[N, 3]``, 0 to 255; the mean of t and s where nothing around the hole is known.
    """
    t, s = telea.astype(np.float32), stokes.astype(np.float32)
    middle = (t + s) / 2
    seen = shrunk(frame, hole)
    if seen is None:
        return middle
    places, size = np.flatnonzero(hole), hole.shape[::-1]
    depth = cv2.distanceTransform(seen.wanted.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if depth.any():
        share = np.minimum(depth / DEEP, 1)[..., None]
        both = cv2.resize(np.dstack([share * stretched(seen), share]), size).reshape(-1, 4).take(places, 0)
        middle += both[:, :3] - both[:, 3:] * middle
    k = cv2.resize(kriged(seen), size, interpolation=cv2.INTER_CUBIC).reshape(-1, 3).take(places, 0)
    slack = LIMIT * cv2.norm(t, s, cv2.NORM_L1) / t.size
    np.maximum(k, (np.minimum(t, s) - slack).clip(0), out=k)
    np.minimum(k, (np.maximum(t, s) + slack).clip(None, 255), out=k)
    return (middle + k) / 2


def shrunk(frame: np.ndarray, hole: np.ndarray) -> Shrunk | None:
    """What kriging sees of uint8 ``[H, W, 3]`` and bool ``[H, W]``; None where nothing around the hole is known."""
    height, width = hole.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    plane, wanted = _resized(frame, hole, size)
    return None if wanted.all() else Shrunk(plane, wanted, _ratio(plane, ~wanted))


def kriged(seen: Shrunk) -> np.ndarray:
    """Ordinary kriging of a hole's colours from the known ring around it, where colours vary as their distance.

        v(p) = b - sum_i a_i |p - q_i|
        a and b solve  b + NUGGET a_i - sum_j a_j |q_i - q_j| = v(q_i),   sum_i a_i = 0
        |(y, x)| = sqrt((r y)^2 + (x / r)^2),   r the ratio

    q are the ring's pixels. It is the linear estimate with the least expected squared error if the mean square of a
    difference in colour is proportional to the distance, and r^2 times as large down as across: a road differs less
    from side to side than from top to bottom.

    Returns:
        the plane with its hole filled, float32 ``[h, w, 3]``.
    """
    plane, wanted, ratio = seen
    if not wanted.any():
        return plane
    distance = cv2.distanceTransform((~wanted).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = np.argwhere(~wanted & (distance <= RING))
    ring = ring[np.linspace(0, len(ring) - 1, min(POINTS, len(ring))).astype(int)]
    scales = np.array([ratio, 1 / ratio], np.float32)
    filled = plane.copy()
    filled[wanted] = _estimated(np.argwhere(wanted) * scales, ring * scales, plane[tuple(ring.T)])
    return filled


def stretched(seen: Shrunk) -> np.ndarray:
    """The plane's hole filled by Telea's method, r times as high and 1 / r times as wide: float32 ``[h, w, 3]``."""
    (plane, wanted, ratio), (height, width) = seen, seen.wanted.shape
    size = (max(2, round(width / ratio)), max(2, round(height * ratio)))
    colours, hidden = _resized(plane, wanted, size)
    filled = opencv(np.rint(colours).clip(0, 255).astype(np.uint8), hidden, cv2.INPAINT_TELEA)
    return cv2.resize(filled, (width, height)).astype(np.float32)


def _resized(colours: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The mean colours of what is known, float32, and which pixels are mostly hidden; size: width and height."""
    known = (~hole).astype(np.float32)
    sums = cv2.resize(cv2.merge([colours * known[..., None], known]), size, interpolation=cv2.INTER_AREA)
    return sums[..., :3] / np.maximum(sums[..., 3:], 1e-6), sums[..., 3] < 0.5


def _ratio(plane: np.ndarray, known: np.ndarray) -> float:
    """``(y + FLAT) / (x + FLAT)``, from 1 / `STRETCH` to `STRETCH`; 1 where no known pixels lie far enough apart.

    y and x are the mean absolute differences of known pixels `LAG` apart down and across.
    """
    found = []
    for own, shown in ((plane, known), (plane.swapaxes(0, 1), known.T)):
        both = shown[LAG:] & shown[:-LAG]
        found.append(float(np.abs(own[LAG:] - own[:-LAG])[both].mean()) if both.any() else None)
    down, across = found
    if down is None or across is None:
        return 1.0
    return float(np.clip((down + FLAT) / (across + FLAT), 1 / STRETCH, STRETCH))


def _estimated(wanted: np.ndarray, ring: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Colours of N places ``[N, 2]`` from those ``[M, 3]`` at M of the ring: float32 ``[N, 3]``."""
    count = len(ring)
    system = np.ones((count + 1, count + 1), np.float32)
    system[:count, :count] = NUGGET * np.eye(count, dtype=np.float32) - _distances(ring, ring)
    system[count, count] = 0
    colours = np.zeros((count + 1, 3), np.float32)
    colours[:count] = known
    weights = cv2.solve(system, colours, flags=cv2.DECOMP_LU)[1]
    return weights[count] - np.einsum("np,pc->nc", _distances(wanted, ring), weights[:count])


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Between points ``[N, 2]`` and ``[M, 2]``: float32 ``[N, M]``."""
    (y, x), (v, u) = first.T.astype(np.float32), second.T.astype(np.float32)
    across, down = x[:, None] - u, y[:, None] - v
    across *= across
    down *= down
    across += down
    return np.sqrt(across, out=across)  # cv2.magnitude's bits depend on where arrays lie
