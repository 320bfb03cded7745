"""What most frames show at a place: a thing that passes is outvoted."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation.boxes import Box
from fastinpaint.propagation.carry import Place, Source

VOTES = 16
"""Frames that are asked, at most, spread evenly over a scene."""
TOLERANCE = 12
"""Grey levels, in the colour that differs most, within which two frames agree."""
NEAR = 2
"""Pixels around a hole that are not asked: the blurred edge of what the hole hides."""
FINE_SIDE = 200
"""Frames whose shorter side is at most this many pixels are asked at every pixel, larger ones at every second."""


class Majority(NamedTuple):
    """For each hole pixel of one frame.

    Attributes:
        source: the nearest frame in time that agrees with the frame that most others agree with.
        support: share of the frames asked that agree with that one, float32 ``[N]``; 0 where none shows the place.
        shown: frames that show the place, float32 ``[N]``.
    """

    source: Source
    support: np.ndarray
    shown: np.ndarray


class Votes:
    """The frames that are asked, and where each frame's pixels are found in them.

    Args:
        video: uint8 ``[T, H, W, 3]``.
        hole: bool ``[T, H, W]``.
        cameras: from each frame to its scene, float64 ``[T, 3, 3]`` (`fastinpaint.propagation.camera.register`).
        starts: bool ``[T]``, whether a frame is the first of a scene.
    """

    def __init__(self, video: np.ndarray, hole: np.ndarray, cameras: np.ndarray, starts: np.ndarray) -> None:
        self.video, self.hole, self.cameras = video, hole, cameras
        self.step = 1 if min(video.shape[1:3]) <= FINE_SIDE else 2
        self.scene = np.cumsum(starts)
        reach = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
        self.asked: dict[int, np.ndarray] = {}
        for number in np.unique(self.scene):
            frames = np.flatnonzero(self.scene == number)
            spread = np.linspace(0, len(frames) - 1, min(VOTES, len(frames)))
            self.asked[int(number)] = frames[np.rint(spread).astype(int)]
        self.planes = {
            int(t): np.dstack([video[t], (cv2.dilate(hole[t].astype(np.uint8), reach) == 0) * np.uint8(255)])
            for t in np.concatenate(list(self.asked.values()))
        }

    def of(self, t: int, box: Box, place: Place) -> Majority:
        """The majority at the hole pixels of frame t, which lie inside the box."""
        asked = self.asked[int(self.scene[t])]
        matrices = [np.linalg.inv(self.cameras[s]) @ self.cameras[t] for s in asked]
        step = self.step
        rows, columns = (place[0] - box.top) // step, (place[1] - box.left) // step
        size = (-(-(box.right - box.left) // step), -(-(box.bottom - box.top) // step))
        grid = np.zeros(size[::-1], np.int32)
        grid[rows, columns] = 1
        coarse = np.nonzero(grid)
        grid[coarse] = np.arange(len(coarse[0]))
        own = np.array([[step, 0, box.left], [0, step, box.top], [0, 0, 1]], np.float64)
        seen = np.stack(
            [
                cv2.warpAffine(
                    self.planes[int(s)], (matrix @ own)[:2], size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                )[coarse]
                for s, matrix in zip(asked, matrices, strict=True)
            ]
        )
        shown = seen[..., 3] > 0
        count = shown.sum(0)
        allies = _allies(seen)
        apart = np.abs(asked - t)[:, None]
        index = np.arange(len(count))
        winner = (allies * 4096 - np.minimum(apart, 4095)).argmax(0)
        gap = np.abs(seen[..., :3].astype(np.int16) - seen[winner, index, :3]).max(2)
        nearest = np.where(shown & (gap <= TOLERANCE), apart, 1 << 20).argmin(0)
        support = allies[winner, index] / np.maximum(count, 1)
        fine = grid[rows, columns]
        chosen = nearest[fine]
        points = np.stack([place[1], place[0], np.ones(len(rows), np.int64)]).astype(np.float64)
        x, y = np.zeros((2, len(rows)))
        for number, matrix in enumerate(matrices):
            mine = chosen == number
            x[mine], y[mine] = matrix[:2] @ points[:, mine]
        frame = np.where(count[fine] > 0, asked[chosen], -1)
        source = Source(frame.astype(np.int32), x.astype(np.float32), y.astype(np.float32))
        return Majority(source, support[fine].astype(np.float32), count[fine].astype(np.float32))


def _allies(seen: np.ndarray) -> np.ndarray:
    """How many frames agree with each, itself included: int32 ``[S, N]`` of uint8 ``[S, N, 4]``, the last 255 or 0.

    Two frames agree where both show the place, in colours that are `TOLERANCE` apart at most.
    """
    planes = [np.ascontiguousarray(seen[..., channel]) for channel in range(4)]
    shown = planes[3] > 0
    allies = shown.astype(np.int32)
    for lag in range(1, len(seen)):
        gap = cv2.absdiff(planes[0][lag:], planes[0][:-lag])
        for plane in planes[1:3]:
            gap = cv2.max(gap, cv2.absdiff(plane[lag:], plane[:-lag]))
        agree = (gap <= TOLERANCE) & shown[lag:] & shown[:-lag]
        allies[lag:] += agree
        allies[:-lag] += agree
    return allies
