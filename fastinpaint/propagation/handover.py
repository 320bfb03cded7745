"""From one window to the next: what the later one shows otherwise comes in over several frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastinpaint.propagation.boxes import surrounding
from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import Motion
from fastinpaint.propagation.steady import sampled

FRAMES = 5
"""Frames over which the later window fades in. With windows of 24 frames, and strokes over the dog's clip, the change
from the last frame of one to the next fell from 6 to 11 grey levels to 2 to 3.4. Within windows it is 1.1."""


def hand_over(
    calm: list[np.ndarray],
    filled: np.ndarray,
    doubts: Sequence[np.ndarray],
    motion: Motion,
    places: Sequence[Place],
    starts: np.ndarray,
    first: int,
) -> None:
    """Fade from the fill of the frame before `first`, carried along the motion, to that of the frames from there on.

        v_t + (1 - s) max(d, e) (o - v_t),   s = (t - first + 1) / (FRAMES + 1)

    o and e are the colour and the doubt that come from the window before, d is the doubt of v_t. What both windows know
    stays as it is. A cut or a frame without a hole ends the fade.

    Args:
        calm: for each frame its hole pixels, float32 ``[N, 3]``; those of the first frames are changed in place.
        filled: uint8 ``[T, H, W, 3]``; the frame before `first` is final.
        doubts: for each frame those of its hole pixels, float32 ``[N]``.
        motion, places, starts: see `fastinpaint.propagation.steady.steady`.
    """
    old, doubt = filled[first - 1][places[first - 1]].astype(np.float32), doubts[first - 1]
    for t in range(first, min(first + FRAMES, len(filled))):
        box, flow = surrounding(places[t - 1], filled.shape[1:3], 2), motion.past[t]
        if box is None or flow is None or not len(flow) or starts[t]:
            return
        plane = np.zeros((box.bottom - box.top, box.right - box.left, 4), np.float32)
        plane[..., :3] = filled[t - 1][box.slices]
        (above, before), (rows, columns) = places[t - 1], places[t]
        plane[above - box.top, before - box.left] = np.column_stack([old, doubt])
        carried = sampled(plane, columns + flow[:, 0] - box.left, rows + flow[:, 1] - box.top)
        old, doubt = carried[:, :3], carried[:, 3]
        share = (1 - (t - first + 1) / (FRAMES + 1)) * np.maximum(doubt, doubts[t])
        calm[t] += share[:, None].astype(np.float32) * (old - calm[t])
