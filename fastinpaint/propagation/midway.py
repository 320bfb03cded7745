"""Motion of hole pixels that both neighbouring frames show, measured from the one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from fastinpaint.propagation.boxes import CORES, surrounding
from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import MARGIN, SMALLEST, Motion, finest_scale, grey, measured
from fastinpaint.propagation.steady import sampled

STEPS = 2
"""Fixed-point steps from the motion at the frame before to that at the frame between."""
ENOUGH = 0.05
"""Share of a frame's hole that both neighbours must show at the same place, or nothing is measured."""
BETTER, LEAST = 0.9, 0.5
"""A motion is replaced where the neighbours' difference falls to this share of it, less these grey levels."""
SMOOTH = 1.5
"""Standard deviation in pixels of the Gaussian that differences are averaged by."""


def midway(video: np.ndarray, known: np.ndarray, places: Sequence[Place], starts: np.ndarray, motion: Motion) -> Motion:
    """Replace the motion of hole pixels where the frames before and after agree better along their own.

        m(p) = f(p - m(p)) / 2,   f the flow from frame t-1 to frame t+1

    The pixel moves by -m into the past and by m into the future. That is taken where both its ends are known and differ
    by less than those of the motion so far, or where an end of that is not known. The flow between a frame and its
    neighbours follows what the frame's hole was filled with; this one does not.

    Args:
        video: uint8 ``[T, H, W, 3]``, holes filled.
        known: bool ``[T, H, W]``.
        places: for each frame rows and columns of its hole pixels.
        starts: bool ``[T]``, whether a frame is the first of a scene.
        motion: of the hole pixels so far.
    """

    finest = finest_scale(video)

    def one(t: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        past, future = motion.past[t], motion.future[t]
        box = surrounding(places[t], video.shape[1:3], MARGIN)
        if past is None or future is None or box is None or starts[t] or starts[t + 1]:
            return past, future
        shown = known[t - 1][places[t]] & known[t + 1][places[t]]
        if shown.mean() < ENOUGH or min(box.bottom - box.top, box.right - box.left) < SMALLEST:
            return past, future
        before, after = (np.ascontiguousarray(video[i][box.slices]) for i in (t - 1, t + 1))
        seen = [known[i][box.slices] for i in (t - 1, t + 1)]
        place = places[t][0] - box.top, places[t][1] - box.left
        half = _half(measured(grey(before), grey(after), finest), place)
        old = _ends(before, after, seen, place, past, future)
        new = _ends(before, after, seen, place, -half, half)
        better = new[0] & (~old[0] | (new[1] + LEAST < BETTER * old[1]))
        return np.where(better[:, None], -half, past), np.where(better[:, None], half, future)

    with ThreadPoolExecutor(CORES) as pool:
        found = list(pool.map(one, range(len(video))))
    return Motion([past for past, _ in found], [future for _, future in found])


def _half(flow: np.ndarray, place: Place) -> np.ndarray:
    """Half of the flow ``[H, W, 2]`` from the frame before to the frame after, at N places between: ``[N, 2]``."""
    rows, columns = place
    half = flow[place] / 2
    for _ in range(STEPS):
        half = sampled(flow, columns - half[:, 0], rows - half[:, 1]) / 2
    return half


def _ends(
    before: np.ndarray, after: np.ndarray, seen: list[np.ndarray], place: Place, past: np.ndarray, future: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether both ends of a motion are known, bool ``[N]``, and by how much they differ, smoothed, ``[N]``."""
    rows, columns = place
    there = np.ones(len(rows), bool)
    colours = []
    for frame, shown, way in ((before, seen[0], past), (after, seen[1], future)):
        x, y = columns + way[:, 0], rows + way[:, 1]
        near_x, near_y = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
        height, width = shown.shape
        inside = (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
        there &= inside & shown[near_y.clip(0, height - 1), near_x.clip(0, width - 1)]
        colours.append(sampled(frame, x, y))
    planes = np.zeros((*seen[0].shape, 2), np.float32)
    planes[rows, columns] = np.column_stack([cv2.absdiff(*colours).mean(1), np.ones(len(rows))])
    gap, count = cv2.GaussianBlur(planes, (0, 0), SMOOTH)[place].T
    return there, gap / count
