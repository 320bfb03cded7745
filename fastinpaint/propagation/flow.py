"""Motion between neighbouring frames at hole pixels: optical flow completed inside holes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation.boxes import CORES, around
from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.pyramid import extend

AGREE = 1.0
"""Pixels of forward-backward disagreement at which a flow vector's weight falls to 1/e."""
MARGIN = 32
"""Pixels around the holes that the flow sees."""
FINE_SIDE = 200
"""Frames whose shorter side is at most this many pixels get flow at full resolution, larger ones at half."""
SMALLEST = 16
"""Pixels of the shorter side that DIS needs; smaller frames are held to be still."""


class Motion(NamedTuple):
    """Where each hole pixel of a frame is found in its neighbours.

    Attributes:
        past: for frame t, ``[N, 2]`` (x, y, in pixels) to frame t-1; None for the first frame.
        future: for frame t, the same to frame t+1; None for the last frame.
    """

    past: list[np.ndarray | None]
    future: list[np.ndarray | None]


def by_flow(video: np.ndarray, known: np.ndarray, places: Sequence[Place], starts: np.ndarray, inside: float) -> Motion:
    """DIS flow (Kroeger et al. 2016) of pre-filled frames; what a hole hides is taken from its surroundings.

    Across a cut, and where neither frame has a hole, the flow is zero. A vector counts by its agreement with the
    opposite flow. Vectors inside holes, which rest on filled pixels, count `inside` times as much as others. Where
    little counts, the flow is a smooth extension of what counts around it.

    Args:
        video: uint8 ``[T, H, W, 3]``, holes filled.
        known: bool ``[T, H, W]``.
        places: for each frame rows and columns of its hole pixels.
        starts: bool ``[T]``, whether a frame is the first of a scene.
        inside: weight of measured flow inside holes, in [0, 1]; 0 for a rough fill, near 1 for a good one.
    """
    finest = finest_scale(video)

    def pair(t: int) -> tuple[np.ndarray, np.ndarray]:
        """Of frame t-1 to t, and back."""
        box = around(~known[t - 1 : t + 1], MARGIN)
        if starts[t] or box is None or min(box.bottom - box.top, box.right - box.left) < SMALLEST:
            return np.zeros((len(places[t - 1][0]), 2), np.float32), np.zeros((len(places[t][0]), 2), np.float32)
        first, second = (grey(np.ascontiguousarray(video[i][box.slices])) for i in (t - 1, t))
        trust = [np.where(known[i][box.slices], np.float32(1), np.float32(inside)) for i in (t - 1, t)]
        ahead, back = measured(first, second, finest), measured(second, first, finest)
        inside_box = [(places[i][0] - box.top, places[i][1] - box.left) for i in (t - 1, t)]
        return (
            _completed(ahead, back, trust[0], trust[1], inside_box[0]),
            _completed(back, ahead, trust[1], trust[0], inside_box[1]),
        )

    motion = Motion([None] * len(video), [None] * len(video))
    with ThreadPoolExecutor(CORES) as pool:
        for t, (ahead, back) in enumerate(pool.map(pair, range(1, len(video))), start=1):
            motion.future[t - 1], motion.past[t] = ahead, back
    return motion


def finest_scale(video: np.ndarray) -> int:
    """The finest scale of the flow of a video ``[T, H, W, 3]``: 0 is full resolution, 1 half."""
    return 0 if min(video.shape[1:3]) <= FINE_SIDE else 1


def grey(frame: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W]`` of RGB ``[H, W, 3]``."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def measured(first: np.ndarray, second: np.ndarray, finest: int) -> np.ndarray:
    """DIS flow from a grey frame to another, ``[H, W, 2]``, down to the finest scale."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(finest)
    return dis.calc(first, second, None)  # type: ignore[call-overload]


def _completed(flow: np.ndarray, opposite: np.ndarray, own: np.ndarray, other: np.ndarray, place: Place) -> np.ndarray:
    """A flow ``[H, W, 2]`` where it counts, its extension elsewhere, at N places: ``[N, 2]``.

    Args:
        own, other: both frames' weights, ``[H, W]``.
    """
    height, width = own.shape
    right, down = cv2.split(flow)
    x = right + np.arange(width, dtype=np.float32)
    y = down + np.arange(height, dtype=np.float32)[:, None]
    target = cv2.remap(cv2.merge([opposite, other]), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    back_right, back_down, there = cv2.split(target)
    gap = (right + back_right) ** 2 + (down + back_down) ** 2
    weight = own * there * np.exp(-gap / AGREE**2)
    weight[(x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)] = 0
    return np.where((weight[place] > 0.5)[:, None], flow[place], extend(flow, weight, place))
