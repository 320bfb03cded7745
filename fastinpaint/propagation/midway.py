"""Motion of hole pixels between the nearest frames that show them, measured from the one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from fastinpaint.propagation.boxes import CORES, surrounding
from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import MARGIN, SMALLEST, Motion, finest_scale, grey, measured
from fastinpaint.propagation.steady import sampled

REACH = 3
"""Frames before and after that are looked at, at most. Beyond, motion is no longer even."""
STEPS = 2
"""Fixed-point steps from the motion at the frame before to that at the frame between."""
ENOUGH = 0.05
"""Share of a frame's hole that a pair of frames must be the nearest ones of, or nothing is measured between them."""
BETTER, LEAST = 0.9, 0.5
"""A motion is replaced where the two frames' difference falls to this share of it, less these grey levels."""
SMOOTH = 1.5
"""Standard deviation in pixels of the Gaussian that differences are averaged by."""


def midway(video: np.ndarray, known: np.ndarray, places: Sequence[Place], starts: np.ndarray, motion: Motion) -> Motion:
    """Replace the motion of hole pixels where the nearest frames that show them agree better along their own.

        m(p) = f(p - i m(p)) / (i + j),   f the flow from frame t-i to frame t+j

    i and j are the distances, at most `REACH`, to the nearest frames before and after that are known at the pixel's
    place. The pixel moves by m a frame. That is taken where both its ends are known and differ by less than those of
    the motion so far, or where an end of that is not known. The flow between a frame and its neighbours follows what
    the holes were filled with; this one does not.

    Args:
        video: uint8 ``[T, H, W, 3]``, holes filled.
        known: bool ``[T, H, W]``.
        places: for each frame rows and columns of its hole pixels.
        starts: bool ``[T]``, whether a frame is the first of a scene.
        motion: of the hole pixels so far.
    """
    finest, scene = finest_scale(video), np.cumsum(starts)

    def one(t: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        past, future = motion.past[t], motion.future[t]
        box = surrounding(places[t], video.shape[1:3], MARGIN)
        if past is None or future is None or box is None:
            return past, future
        if min(box.bottom - box.top, box.right - box.left) < SMALLEST:
            return past, future
        place = places[t][0] - box.top, places[t][1] - box.left
        nearest = [_nearest(known, places[t], t, step) for step in (-1, 1)]
        for i, j in np.ndindex(REACH, REACH):
            first, second = t - i - 1, t + j + 1
            if first < 0 or second >= len(video) or scene[first] != scene[second]:
                continue
            wanted = (nearest[0] == i + 1) & (nearest[1] == j + 1)
            if wanted.mean() < ENOUGH:
                continue
            ends = [np.ascontiguousarray(video[k][box.slices]) for k in (first, second)]
            seen = [known[k][box.slices] for k in (first, second)]
            step = _step(measured(grey(ends[0]), grey(ends[1]), finest), place, i + 1, j + 1)
            old = _ends(ends, seen, place, (i + 1) * past, (j + 1) * future)
            new = _ends(ends, seen, place, -(i + 1) * step, (j + 1) * step)
            better = new[0] & (~old[0] | (new[1] + LEAST < BETTER * old[1]))
            better &= wanted | (i == j == 0)  # what moves may be shown next to a place that is not
            past, future = np.where(better[:, None], -step, past), np.where(better[:, None], step, future)
        return past, future

    with ThreadPoolExecutor(CORES) as pool:
        found = list(pool.map(one, range(len(video))))
    return Motion([past for past, _ in found], [future for _, future in found])


def _nearest(known: np.ndarray, place: Place, t: int, step: int) -> np.ndarray:
    """Frames from t, in steps of -1 or 1, to the nearest that is known at each place; 0 beyond `REACH`: int ``[N]``."""
    nearest = np.zeros(len(place[0]), np.int8)
    for distance in range(REACH, 0, -1):
        if 0 <= t + step * distance < len(known):
            nearest[known[t + step * distance][place]] = distance
    return nearest


def _step(flow: np.ndarray, place: Place, before: int, after: int) -> np.ndarray:
    """The motion a frame, ``[N, 2]``, at N places between two frames with the flow ``[H, W, 2]`` from one to the other.

    Args:
        before, after: frames to the one and to the other.
    """
    rows, columns = place
    step = flow[place] / (before + after)
    for _ in range(STEPS):
        step = sampled(flow, columns - before * step[:, 0], rows - before * step[:, 1]) / (before + after)
    return step


def _ends(
    frames: list[np.ndarray], seen: list[np.ndarray], place: Place, past: np.ndarray, future: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether both ends of a motion are known, bool ``[N]``, and by how much they differ, smoothed, ``[N]``.

    Args:
        frames, seen: the frame before and the frame after, uint8 ``[H, W, 3]``, and what is known of them.
        past, future: from the places to their ends in both, ``[N, 2]``.
    """
    rows, columns = place
    there = np.ones(len(rows), bool)
    colours = []
    for frame, shown, way in zip(frames, seen, (past, future), strict=True):
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
