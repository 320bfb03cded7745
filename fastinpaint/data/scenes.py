"""Detects cuts between scenes.

Two frames belong to one scene if most 8x8 blocks of the second thumbnail match the first one near the same place. A
block is searched within `REACH` pixels, to allow for motion, by normalised correlation; its brightness relative to the
rest of the picture must also match. Motion, exposure and flashes therefore keep the similarity high; new content lowers
it. Fades and dissolves do not count as cuts.
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
NOISE = 3.0  # grey levels; a block with a lower standard deviation is flat, and only its brightness is compared
BRIGHTNESS_RANGE = 32.0  # grey levels of relative change at which a block counts as different
BLUR = 0.8  # pixels of the thumbnail: smooths the dither of palettes and the noise of small or dark films
SAME_SCENE = 0.73
"""On driving, people, street and rendered clips neighbouring frames measured at least 0.87, and frames of different
clips at most 0.64."""
STILL = 3.0  # mean absolute change, in grey levels, below which two frames surely belong together
FLASH = 3
"""Longest flash in frames: a scene that returns after at most so many other frames did not end."""

Item = TypeVar("Item")


def split_scenes(items: Iterable[Item], rgb_of: Callable[[Item], np.ndarray]) -> Iterator[tuple[int, Item]]:
    """Number the scenes: yields ``(scene, item)``, the scene rising from 0 by 1 at every cut.

    Args:
        items: carriers of the frames; up to `FLASH` of them are buffered.
        rgb_of: returns an item's frame, uint8 ``[H, W, 3]``.
    """
    ahead: deque[tuple[Item, np.ndarray]] = deque()
    scene = 0
    seen: np.ndarray | None = None  # the latest frame that certainly belongs to the scene

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
    """Luma of a frame, resized to float32 ``[THUMB_HEIGHT, THUMB_WIDTH]`` and slightly blurred."""
    return shrunk(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def shrunk(plane: np.ndarray) -> np.ndarray:
    """A plane, uint8 ``[H, W]``, as in `thumbnail`."""
    small = cv2.resize(plane, (THUMB_WIDTH, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small.astype(np.float32), (0, 0), BLUR)


def same_scene(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two thumbnails show one scene."""
    return float(np.abs(a - b).mean()) < STILL or similarity(a, b) > SAME_SCENE


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the picture that matches, at most 1: the lower of both directions."""
    return min(_match_score(a, b), _match_score(b, a))


def _match_score(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over b's blocks of correlation times brightness match, each at its best place in a's window."""
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
