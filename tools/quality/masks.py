"""Masks for the clips in docs/quality.md: by colour, by difference from a still scene, by tracking, or a moving box.

Each recipe is a few numbers, so that the masks can be reproduced from the clips.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 360

Box = tuple[int, int, int, int]
Recipe = Callable[[np.ndarray], np.ndarray]
"""From frames uint8 ``[T, H, W, 3]`` to masks bool ``[T, H, W]``."""


def by_colour(hues: list[tuple[int, int]], saturation: int, least: int, grow: int) -> Recipe:
    """Dilated regions of at least `least` pixels with strong colours whose hue (0 to 180) is in one of the ranges."""

    def masks(video: np.ndarray) -> np.ndarray:
        found = []
        for frame in video:
            hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
            strong = hsv[..., 1] >= saturation
            mask = np.logical_or.reduce([(hsv[..., 0] >= low) & (hsv[..., 0] <= high) for low, high in hues]) & strong
            found.append(_grown(_large(mask, least), grow))
        return np.stack(found)

    return masks


def by_difference(boxes: dict[int, Box], least: int, grow: int) -> Recipe:
    """Pixels that differ from the clip's median inside a box (x, y, w, h), which is interpolated between key frames."""

    def masks(video: np.ndarray) -> np.ndarray:
        still = np.median(video[:: max(1, len(video) // 40)], 0)
        found = []
        for frame, inside in zip(video, by_box(boxes)(video), strict=True):
            mask = np.abs(frame.astype(np.float32) - still).max(2) >= least
            found.append(_grown(_large(mask & inside, 30), grow))
        return np.stack(found)

    return masks


def by_box(boxes: dict[int, Box]) -> Recipe:
    """A box (x, y, w, h), which is interpolated between key frames."""

    def masks(video: np.ndarray) -> np.ndarray:
        times = sorted(boxes)
        found = np.zeros(video.shape[:3], bool)
        for t, inside in enumerate(found):
            x, y, w, h = (int(np.interp(t, times, [boxes[k][i] for k in times])) for i in range(4))
            inside[max(0, y) : y + h, max(0, x) : x + w] = True
        return found

    return masks


def by_tracking(box: Box, reach: int, grow: int) -> Recipe:
    """A round object, given by its box in the first frame and tracked by its appearance."""

    def masks(video: np.ndarray) -> np.ndarray:
        x, y, w, h = box
        round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (w, h))
        first = video[0, y : y + h, x : x + w].copy()
        at, speed = np.array([x, y], float), np.zeros(2)
        found = []
        for frame in video:
            guess = np.rint(at + speed).astype(int)
            left, top = max(0, guess[0] - reach), max(0, guess[1] - reach)
            part = frame[top : guess[1] + h + reach, left : guess[0] + w + reach]
            score = cv2.matchTemplate(part, first, cv2.TM_SQDIFF, mask=round_)
            _, _, best, _ = cv2.minMaxLoc(score)
            new = np.array([left + best[0], top + best[1]], float)
            speed, at = new - at, new
            mask = np.zeros(frame.shape[:2], np.uint8)
            cv2.ellipse(
                mask, (int(at[0] + w / 2), int(at[1] + h / 2)), (w // 2 + grow, h // 2 + grow), 0, 0, 360, 1, -1
            )
            found.append(mask > 0)
        return np.stack(found)

    return masks


def _large(mask: np.ndarray, least: int) -> np.ndarray:
    """Remove regions of fewer than `least` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    return keep[labels]


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Close, fill and dilate a mask."""
    size = 2 * pixels + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.dilate(cv2.drawContours(closed, outlines, -1, 1, -1), disc) > 0
