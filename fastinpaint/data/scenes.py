"""Where a film cuts from one scene to another.

Two frames belong to one scene if most of the 8x8 blocks of the second one's thumbnail are found again near their place
in the first one. Every block is sought within `REACH` pixels, which camera and objects may have moved, by its
correlation without mean and contrast, and it must have kept its brightness next to the rest of the picture. So motion,
exposure and flashes leave the measure high, and only another content brings it down. Fades and dissolves are no cuts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np

THUMB_WIDTH, THUMB_HEIGHT = 64, 36
BLOCK = 8
REACH = 6
NOISE = 3.0  # grey levels: below this standard deviation a block is flat and only its brightness is compared
BRIGHTNESS_RANGE = 32.0  # grey levels of relative change at which a block counts as another one
BLUR = 0.8  # pixels of the thumbnail: smooths the dither of palettes and the noise of small or dark films
SAME_SCENE = 0.73
"""On driving, people, street and rendered clips neighbouring frames measured 0.87 or more, and frames of two clips
0.64 or less."""
STILL = 3.0  # mean absolute change, in grey levels, below which nothing more needs to be compared
FLASH = 3
"""Frames that a flash may last: a scene that is seen again after at most so many others did not end."""

Item = TypeVar("Item")


def split_scenes(items: Iterable[Item], rgb_of: Callable[[Item], np.ndarray]) -> Iterator[tuple[int, Item]]:
    """Number the scenes: yields ``(scene, item)``, scene 0, 1, 2 ... rising at every cut.

    Args:
        items: whatever carries the frames; `FLASH` of them are held back at a time.
        rgb_of: gives an item's frame, uint8 ``[H, W, 3]``.
    """
    ahead: deque[tuple[Item, np.ndarray]] = deque()
    scene = 0
    seen: np.ndarray | None = None  # the latest frame that surely belongs to the scene

    def next_item() -> tuple[int, Item]:
        nonlocal scene, seen
        item, thumb = ahead.popleft()
        if seen is None or same_scene(seen, thumb):
            seen = thumb
        elif not any(same_scene(seen, later) for _, later in ahead):
            scene, seen = scene + 1, thumb
        return scene, item

    for item in items:
        ahead.append((item, thumbnail(rgb_of(item))))
        if len(ahead) > FLASH:
            yield next_item()
    while ahead:
        yield next_item()


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """Luma of a frame, shrunk to float32 ``[THUMB_HEIGHT, THUMB_WIDTH]`` whatever its shape, and slightly blurred."""
    luma = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(luma, (THUMB_WIDTH, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small.astype(np.float32), (0, 0), BLUR)


def same_scene(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two thumbnails show one scene."""
    return float(np.abs(a - b).mean()) < STILL or similarity(a, b) > SAME_SCENE


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the picture that is found again, at most 1: the lower one of both directions."""
    return min(_found(a, b), _found(b, a))


def _found(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over b's blocks of correlation times brightness match, each at its best in the window of a."""
    exposure = float(np.median(b) - np.median(a))
    scores = []
    for y in range(0, THUMB_HEIGHT - BLOCK + 1, BLOCK - 1):  # 0, 7, ... 28: the last row ends at the edge
        for x in range(0, THUMB_WIDTH - BLOCK + 1, BLOCK):
            block = b[y : y + BLOCK, x : x + BLOCK]
            window = a[max(0, y - REACH) : y + BLOCK + REACH, max(0, x - REACH) : x + BLOCK + REACH]
            scores.append(_block_score(window, block, exposure))
    return float(np.mean(scores))


def _block_score(window: np.ndarray, block: np.ndarray, exposure: float) -> float:
    mean, deviation = float(block.mean()), float(block.std())
    covariance = cv2.matchTemplate(window, block - mean, cv2.TM_CCORR) / BLOCK**2
    rows, columns = covariance.shape
    means, squares = (
        cv2.boxFilter(image, -1, (BLOCK, BLOCK), anchor=(0, 0))[:rows, :columns] for image in (window, window * window)
    )
    deviations = np.sqrt(np.maximum(squares - means * means, 0))
    brightness = np.clip(1 - np.abs(means + exposure - mean) / BRIGHTNESS_RANGE, 0, 1)
    correlation = covariance / (np.maximum(deviations, NOISE) * max(deviation, NOISE))
    flat = np.maximum(deviations, deviation) <= NOISE
    return float(np.where(flat, brightness, correlation).max() * brightness.max())
