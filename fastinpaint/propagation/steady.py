"""Keeping what no frame shows from flickering: doubtful pixels are averaged along their own motion."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from fastinpaint.propagation.boxes import Box, surrounding
from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import Motion

KEEP, CALM = 0.85, 0.11
"""Share of what is carried along in the average where it differs much, and what is added to it where it hardly does."""
NEAR = 24.0
"""Grey levels of difference at which that addition falls to 1/e: longer averages of what moves become blurred."""
REACH = 12
"""Pixels around a hole whose change says how the light changes from frame to frame."""
ENOUGH = 8000
"""Pixels that this is measured at, about, where more are known."""
LIGHT = 2.0
"""Grey levels that light changes by at least, from frame to frame; less is noise."""


def steady(
    filled: np.ndarray, doubts: Sequence[np.ndarray], motion: Motion, places: Sequence[Place], starts: np.ndarray
) -> list[np.ndarray]:
    """Average hole pixels over time along their motion, as much as they are doubtful.

        m_t(p) = v_t(p) + k d_{t-1}(q) c,   c = m_{t-1}(q) + l_t - v_t(p),   q = p + motion_t(p)
        k = KEEP + CALM exp(-(|c| / NEAR)^2),   l_t the change of `light`

    from the past, and likewise from the future; the result is v + d ((m_past + m_future) / 2 - v). d is 0 for known
    pixels and 1 for what no frame shows. About 1 / (1 - k) frames of each side take part.

    Args:
        filled: uint8 ``[T, H, W, 3]``.
        doubts: for each frame d of its hole pixels, float32 ``[N]``.
        motion: of the hole pixels.
        places: rows and columns of the hole pixels of each frame.
        starts: bool ``[T]``, the first frames of scenes.

    Returns:
        for each frame its hole pixels, float32 ``[N, 3]``.
    """
    values = [filled[t][place].astype(np.float32) for t, place in enumerate(places)]
    shifts = [np.zeros(3, np.float32)] * len(filled)
    for t in range(1, len(filled)):
        if not starts[t]:
            shifts[t] = light(filled[t - 1 : t + 1], places[t - 1 : t + 1])

    def averaged(step: int) -> list[np.ndarray]:
        """m from the past (1) or the future (-1)."""
        flows, order = (motion.past, range(len(filled))) if step > 0 else (motion.future, range(len(filled))[::-1])
        means = list(values)
        before: tuple[Box, np.ndarray] | None = None  # where the frame before has a hole; its colours and doubts there
        for t in order:
            rows, columns = places[t]
            flow, box = flows[t], surrounding(places[t], filled.shape[1:3], 2)
            if box is None:
                before = None
                continue
            mean = values[t].copy()
            if before is not None and flow is not None and not starts[max(t, t - step)]:
                seen, plane = before
                carried = sampled(plane, columns + flow[:, 0] - seen.left, rows + flow[:, 1] - seen.top)
                change = carried[:, :3] + (shifts[t] if step > 0 else -shifts[t + 1]) - mean
                keep = KEEP + CALM * np.exp(-((np.abs(change).mean(1) / NEAR) ** 2))
                mean += (keep * carried[:, 3])[:, None] * change
            plane = np.zeros((box.bottom - box.top, box.right - box.left, 4), np.float32)
            plane[..., :3] = filled[t][box.slices]
            plane[rows - box.top, columns - box.left] = np.column_stack([mean, doubts[t]])
            before, means[t] = (box, plane), mean
        return means

    with ThreadPoolExecutor(2) as pool:
        past, future = pool.map(averaged, (1, -1))
    return [v + d[:, None] * (a / 2 + b / 2 - v) for v, d, a, b in zip(values, doubts, past, future, strict=True)]


def light(frames: np.ndarray, places: Sequence[Place]) -> np.ndarray:
    """How the light changes from one frame to the next, float32 ``[3]``: the median over what is known around the hole.

    0 where no colour changes by `LIGHT` or more, and where nothing around the hole is known.

    Args:
        frames: uint8 ``[2, H, W, 3]``.
        places: rows and columns of the hole pixels of both.
    """
    box = surrounding(places[1], frames.shape[1:3], REACH)
    if box is None:
        return np.zeros(3, np.float32)
    known = np.ones(frames.shape[1:3], bool)
    for place in places:
        known[place] = False
    colours = frames[:, *box.slices][:, known[box.slices]]
    before, after = colours[:, :: 1 + colours.shape[1] // ENOUGH].astype(np.int16)
    change = np.median(after - before, 0) if len(after) else np.zeros(3)
    return change.astype(np.float32) * (np.abs(change).max() >= LIGHT)


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples, ``[N, C]``, of a float32 image ``[H, W, C]`` at (x, y)."""
    width, count = 256, len(x)
    x, y = (np.pad(values.astype(np.float32), (0, -count % width)).reshape(-1, width) for values in (x, y))
    sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(-1, image.shape[2])[:count]
