"""The camera's motion: each frame of a scene is registered to an anchor frame, so that errors do not add up."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fastinpaint.propagation.carry import Place
from fastinpaint.propagation.flow import Motion

SIDE = 192
"""The longer side, in pixels, that frames are shrunk to."""
SPACING = 4
"""Pixels of the shrunk frame between points that a motion is fitted to."""
NEAR = 2
"""Pixels of the shrunk frame around a hole whose flow is not used: it follows the fill."""
INLIER = 0.4
"""Pixels of the shrunk frame that a point may be away from where the motion puts it."""
SIMPLER = 0.97
"""Share of the affine motion's inliers that a similarity needs to be preferred."""
HELD = 0.4
"""Share of an anchor's points that must follow the motion, or the frame before becomes the next anchor."""
STEADY = 0.8
"""Share of a moving camera's inliers that a still one needs to be preferred: what moves by itself is no camera."""
FEWEST = 12
"""Points that a motion is fitted to."""
STILL = 0.5
"""Pixels that the frame's corners move by at most where the camera is held to be still."""


def register(video: np.ndarray, known: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The affine motion that most known pixels follow, from each frame to its scene's first frame.

    The flow (DIS) to the anchor is measured on shrunk frames after the motion of the frame before is applied, and the
    motion is fitted to it by RANSAC. Where the camera is still, the result is exactly the identity.

    Args:
        video: uint8 ``[T, H, W, 3]``, holes filled.
        known: bool ``[T, H, W]``.
        starts: bool ``[T]``, whether a frame is the first of a scene.

    Returns:
        float64 ``[T, 3, 3]``, on (x, y, 1) in pixels.
    """
    height, width = video.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(12, round(width * scale)), max(12, round(height * scale)))
    zoom = np.diag([size[0] / width, size[1] / height, 1.0])
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(0)
    reach = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    corners = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1], [size[0], size[1], 1]], np.float64).T
    least = STILL * size[0] / width
    found = np.tile(np.eye(3), (len(video), 1, 1))
    anchor = before = (np.zeros(0), np.zeros(0))
    to_scene, to_anchor = np.eye(3), np.eye(3)  # of the anchor; of the frame before
    for t, frame in enumerate(video):
        grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        hidden = cv2.resize((~known[t]).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        now = grey, cv2.dilate(hidden, reach) == 0
        if starts[t]:
            anchor, to_scene, to_anchor = now, np.eye(3), np.eye(3)
        else:
            matrix, held = _to_anchor(dis, anchor, now, to_anchor, least)
            if held < HELD:
                anchor, to_scene = before, to_scene @ to_anchor
                matrix, _ = _to_anchor(dis, anchor, now, np.eye(3), least)
            moved = np.hypot(*((matrix @ corners) - corners)[:2]).max()
            to_anchor = np.eye(3) if moved < least else matrix
        before = now
        found[t] = np.linalg.inv(zoom) @ to_scene @ to_anchor @ zoom
    return found


View = tuple[np.ndarray, np.ndarray]


def _to_anchor(
    dis: cv2.DISOpticalFlow, anchor: View, now: View, guess: np.ndarray, least: float
) -> tuple[np.ndarray, float]:
    """The motion from `now` to the anchor, near a guess of it, and the share of the anchor's points that follow it.

    Where the guess is the identity and points that move by less than `least` are nearly as many, it stays.
    """
    size = (anchor[0].shape[1], anchor[0].shape[0])
    grey = cv2.warpAffine(now[0], guess[:2], size, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpAffine(now[1].astype(np.uint8), guess[:2], size, flags=cv2.INTER_NEAREST) > 0
    flow = dis.calc(anchor[0], grey, None)  # type: ignore[call-overload]
    usable = (anchor[1] & seen)[::SPACING, ::SPACING]
    overlap = usable.sum() / max(1, anchor[1][::SPACING, ::SPACING].sum())
    slopes = cv2.Sobel(anchor[0], cv2.CV_32F, 1, 0), cv2.Sobel(anchor[0], cv2.CV_32F, 0, 1)
    slope = cv2.blur(np.hypot(*slopes), (5, 5))[::SPACING, ::SPACING]
    if usable.any():
        usable &= slope >= np.median(slope[usable])
    rows, columns = np.nonzero(usable)
    start = np.stack([columns, rows], 1).astype(np.float32) * SPACING
    if len(start) < FEWEST:
        return guess, float(len(rows) > 0)
    end = start + flow[rows * SPACING, columns * SPACING]
    matrix, inliers = cv2.estimateAffine2D(start, end, ransacReprojThreshold=INLIER, maxIters=300)
    simple, others = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=INLIER, maxIters=300)
    if simple is not None and (matrix is None or others.sum() >= SIMPLER * inliers.sum()):
        matrix, inliers = simple, others
    if matrix is None or np.linalg.det(matrix[:, :2]) < 0.1:
        return guess, 0.0
    share = float(inliers.sum() / len(start) * overlap)
    if np.array_equal(guess, np.eye(3)) and (np.hypot(*(end - start).T) < least).sum() >= STEADY * inliers.sum():
        return guess, share
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ guess, share


def between(cameras: np.ndarray, places: Sequence[Place], starts: np.ndarray) -> Motion:
    """The camera's motion from each frame to its neighbours, at hole pixels; zero across a cut.

    Args:
        cameras: of `register`.
        places: for each frame rows and columns of its hole pixels.
        starts: bool ``[T]``, whether a frame is the first of a scene.
    """
    motion = Motion([None] * len(cameras), [None] * len(cameras))
    for t in range(1, len(cameras)):
        matrix = np.eye(3) if starts[t] else np.linalg.inv(cameras[t]) @ cameras[t - 1]
        motion.future[t - 1] = moved(matrix, places[t - 1])
        motion.past[t] = moved(np.linalg.inv(matrix), places[t])
    return motion


def moved(matrix: np.ndarray, place: Place) -> np.ndarray:
    """Displacements of pixels by a motion, float32 ``[N, 2]``."""
    rows, columns = place
    points = np.stack([columns, rows], 1).astype(np.float64)
    return (points @ matrix[:2, :2].T + matrix[:2, 2] - points).astype(np.float32)
