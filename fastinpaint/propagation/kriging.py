"""What a hole holds of which nothing is known: kriging from the colours around it, kept near OpenCV's two fills."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 64
"""Side in pixels that a hole's surroundings are shrunk to at most."""
RING = 3.0
"""Width in shrunk pixels of the ring of known pixels around the hole that colours come from."""
POINTS = 98
"""Pixels of the ring that are used, at most. From a hundred unknowns on OpenCV solves by a library whose threads hang
when two frames are filled at a time. With 320, single frames err by 1 % less."""
NUGGET = 0.1
"""Noise of the ring's colours, in the unit of the distance in shrunk pixels."""
LIMIT = 4.0
"""Multiple of the mean difference between OpenCV's two fills by which kriging may leave the span of both. Where a hole
lies in flat colours, these agree and are right, and kriging mixes what lies on either side of an edge."""


def likely(frame: np.ndarray, hole: np.ndarray, telea: np.ndarray, stokes: np.ndarray) -> np.ndarray:
    """A fill for pixels of which nothing is known: the mean of OpenCV's two fills and of kriging.

        v = ((t + s) / 2 + clip(k, min(t, s) - d, max(t, s) + d)) / 2,   d = LIMIT mean |t - s|

    Args:
        frame: uint8 ``[H, W, 3]``; what it holds inside the hole has no influence.
        hole: bool ``[H, W]``.
        telea, stokes: OpenCV's fills t and s of the hole's pixels, uint8 ``[N, 3]``.

    Returns:
        float32 ``[N, 3]``, 0 to 255; the mean of t and s where nothing around the hole is known.
    """
    t, s = telea.astype(np.float32), stokes.astype(np.float32)
    middle = (t + s) / 2
    k = kriged(frame, hole)
    if k is None:
        return middle
    slack = LIMIT * float(np.abs(t - s).mean())
    return (middle + k.clip(np.minimum(t, s) - slack, np.maximum(t, s) + slack)) / 2


def kriged(frame: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """Ordinary kriging of a hole's colours from the known ring around it, where colours vary as their distance.

        v(p) = b - sum_i a_i |p - q_i|
        a and b solve  b + NUGGET a_i - sum_j a_j |q_i - q_j| = v(q_i),   sum_i a_i = 0

    q are the ring's pixels, seen at `SIDE` pixels at most. It is the linear estimate with the least expected squared
    error if the mean square of a difference in colour is proportional to the distance.

    Args:
        frame: uint8 ``[H, W, 3]``; what it holds inside the hole has no influence.
        hole: bool ``[H, W]``.

    Returns:
        float32 ``[N, 3]``, 0 to 255, for the hole's pixels in order; None where nothing around them is known.
    """
    height, width = hole.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    known = (~hole).astype(np.float32)
    sums = cv2.resize(cv2.merge([frame * known[..., None], known]), size, interpolation=cv2.INTER_AREA)
    plane = sums[..., :3] / np.maximum(sums[..., 3:], 1e-6)
    wanted = sums[..., 3] < 0.5
    if wanted.all():
        return None
    if wanted.any():
        distance = cv2.distanceTransform((~wanted).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        ring = np.argwhere(~wanted & (distance <= RING))
        plane[wanted] = _estimated(np.argwhere(wanted), ring, plane)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC)[hole].clip(0, 255)


def _estimated(wanted: np.ndarray, ring: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Colours of N places ``[N, 2]`` from those of the plane ``[h, w, 3]`` at the ring's: float32 ``[N, 3]``."""
    ring = ring[np.linspace(0, len(ring) - 1, min(POINTS, len(ring))).astype(int)]
    count = len(ring)
    system = np.ones((count + 1, count + 1), np.float32)
    system[:count, :count] = NUGGET * np.eye(count, dtype=np.float32) - _distances(ring, ring)
    system[count, count] = 0
    colours = np.zeros((count + 1, 3), np.float32)
    colours[:count] = plane[tuple(ring.T)]
    weights = cv2.solve(system, colours, flags=cv2.DECOMP_LU)[1]
    return weights[count] - np.einsum("np,pc->nc", _distances(wanted, ring), weights[:count])


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Between points ``[N, 2]`` and ``[M, 2]``: float32 ``[N, M]``."""
    (y, x), (v, u) = first.T.astype(np.float32), second.T.astype(np.float32)
    return np.sqrt((x[:, None] - u) ** 2 + (y[:, None] - v) ** 2)  # cv2.magnitude's bits depend on where arrays lie
