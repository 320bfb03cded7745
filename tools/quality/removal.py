"""Fills what masks hide in clips, as `fastinpaint inpaint` does, and writes the pictures of docs/quality.md.

python -m tools.quality.removal CLIPS OUT [NAME ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.data.video import open_video
from fastinpaint.inference import Settings, complete
from fastinpaint.inference.trained import correction
from tools.quality.masks import HEIGHT, WIDTH, Recipe, by_box, by_colour, by_difference, by_tracking


class Removal(NamedTuple):
    """What is filled, and what of it is shown.

    Attributes:
        file: a clip.
        first, frames: its frames.
        masks: the recipe of the mask.
        size: width and height that frames are scaled to.
        part: rows and columns that the picture shows.
        shown: the frames that it shows; None shows `SHOWN`, evenly spread.
    """

    file: str
    first: int
    frames: int
    masks: Recipe
    size: tuple[int, int] = (WIDTH, HEIGHT)
    part: tuple[slice, slice] = (slice(None), slice(None))
    shown: tuple[int, ...] | None = None


REMOVALS = {
    "dog": Removal(
        "everyday/sam2_01_dog.mp4",
        100,
        110,
        by_difference(
            {
                0: (560, 170, 160, 130),
                14: (500, 180, 160, 130),
                33: (290, 170, 260, 130),
                53: (196, 150, 200, 150),
                72: (190, 125, 210, 165),
                91: (215, 150, 220, 150),
                110: (330, 140, 190, 160),
            },
            18,
            5,
        ),
    ),
    "juggler": Removal("everyday/sam2_05_default_juggle.mp4", 0, 90, by_tracking((306, 139, 40, 40), 40, 8)),
    "cups": Removal("everyday/sam2_02_cups.mp4", 40, 100, by_colour([(0, 4), (168, 180)], 150, 60, 5)),
    "coffee": Removal("everyday/sam2_04_coffee.mp4", 0, 90, by_colour([(98, 116)], 130, 2000, 5)),
    "road": Removal(
        "driving/udacity_vd_test.mp4",
        0,
        38,
        by_box({0: (500, 400, 120, 80)}),
        (1280, 720),
        (slice(340, 540), slice(400, 720)),
    ),
    "box": Removal(
        "everyday/sam2_01_dog.mp4",
        100,
        110,
        by_box({0: (0, 120, 192, 120), 55: (448, 120, 192, 120), 110: (0, 120, 192, 120)}),
        shown=(6, 34, 42, 84),
    ),
}
SHOWN, WIDEST = 4, 1280
"""Frames of a picture, and its width at most."""
MASK_COLOUR = (255, 0, 200)


def read(path: Path, first: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 ``[T, H, W, 3]``, scaled to a width and a height."""
    frames = []
    with open_video(path) as reader:
        for number, frame in enumerate(reader):
            if number >= first + count:
                break
            if number >= first:
                frames.append(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def sheet(video: np.ndarray, mask: np.ndarray, filled: np.ndarray, removal: Removal) -> np.ndarray:
    """Frames with the mask's outline, above the same frames filled."""
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for t in removal.shown or np.linspace(0, len(video) - 1, SHOWN + 2).astype(int)[1:-1]:
        outlines, _ = cv2.findContours(mask[t].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        source = video[t].copy()
        cv2.drawContours(source, outlines, -1, MASK_COLOUR, 2)
        rows[0].append(source[removal.part])
        rows[1].append(filled[t][removal.part])
    whole = np.concatenate([np.concatenate(row, 1) for row in rows])
    scale = min(1.0, WIDEST / whole.shape[1])
    return cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def main() -> None:
    clips, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(REMOVALS)
    out.mkdir(parents=True, exist_ok=True)
    network, seen = correction()
    settings = Settings(device="cpu", frames=seen.frames, size=seen.size)
    for name in names:
        removal = REMOVALS[name]
        video = read(clips / removal.file, removal.first, removal.frames, removal.size)
        mask = removal.masks(video)
        start = time.perf_counter()
        filled = complete(network, video, mask, settings)
        seconds = time.perf_counter() - start
        print(f"{name}: {len(video)} frames, hole {mask.mean():.1%}, {seconds:.1f} s", flush=True)
        picture = sheet(video, mask, filled, removal)
        cv2.imwrite(str(out / f"{name}.jpg"), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        np.savez_compressed(out / f"{name}.npz", filled=filled, mask=mask)


if __name__ == "__main__":
    main()
