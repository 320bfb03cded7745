"""Removes objects from clips at 640x360, as `fastinpaint inpaint` does, and writes the pictures of docs/quality.md.

python -m tools.quality.removal CLIPS OUT [NAME ...]

`road` fills a fixed box at 1280x720 and shows its surroundings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.data.video import open_video
from fastinpaint.inference import Settings, complete
from fastinpaint.inference.trained import correction
from tools.quality.masks import HEIGHT, WIDTH, by_colour, by_difference, by_tracking


class Removal(NamedTuple):
    """A clip's file, its frames, and the recipe of its object's mask."""

    file: str
    first: int
    frames: int
    masks: Callable[[np.ndarray], np.ndarray]


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
}
ROAD, ROAD_BOX, ROAD_SHOWN = "driving/udacity_vd_test.mp4", (500, 400, 120, 80), (5, 18, 31)
"""The clip, the box (left, top, width, height), and the frames in the picture."""
ROAD_AROUND = (100, 60)
"""Pixels left and right of the box, and above and below it, in the picture."""
SHOWN = 4
MASK_COLOUR = (255, 0, 200)


def read(path: Path, first: int, count: int) -> np.ndarray:
    """uint8 ``[T, HEIGHT, WIDTH, 3]``."""
    frames = []
    with open_video(path) as reader:
        for number, frame in enumerate(reader):
            if number >= first + count:
                break
            if number >= first:
                frames.append(cv2.resize(frame.rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def sheet(video: np.ndarray, mask: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Frames with the mask's outline, above the same frames filled."""
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for t in np.linspace(0, len(video) - 1, SHOWN + 2).astype(int)[1:-1]:
        outlines, _ = cv2.findContours(mask[t].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        source = video[t].copy()
        cv2.drawContours(source, outlines, -1, MASK_COLOUR, 2)
        rows[0].append(source)
        rows[1].append(filled[t])
    return np.concatenate([np.concatenate(row, 1) for row in rows])


def road(path: Path, filled: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Parts of frames, each beside the same part filled."""
    with open_video(path) as reader:
        video = np.stack([frame.rgb for frame in reader])
    left, top, width, height = ROAD_BOX
    mask = np.zeros(video.shape[:3], bool)
    mask[:, top : top + height, left : left + width] = True
    across, down = ROAD_AROUND
    part = slice(top - down, top + height + down), slice(left - across, left + width + across)
    both = np.concatenate([video[:, *part], filled(video, mask)[:, *part]], 2)
    return np.concatenate([both[t] for t in ROAD_SHOWN])


def write(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
    clips, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or [*REMOVALS, "road"]
    out.mkdir(parents=True, exist_ok=True)
    network, seen = correction()
    settings = Settings(device="cpu", frames=seen.frames, size=seen.size)
    for name in names:
        if name == "road":
            write(out / "road.jpg", road(clips / ROAD, lambda video, mask: complete(network, video, mask, settings)))
            continue
        removal = REMOVALS[name]
        video = read(clips / removal.file, removal.first, removal.frames)
        mask = removal.masks(video)
        start = time.perf_counter()
        filled = complete(network, video, mask, settings)
        seconds = time.perf_counter() - start
        print(f"{name}: {len(video)} frames, hole {mask.mean():.1%}, {seconds:.1f} s", flush=True)
        picture = sheet(video, mask, filled)
        write(out / f"{name}.jpg", cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        np.savez_compressed(out / f"{name}.npz", filled=filled, mask=mask)


if __name__ == "__main__":
    main()
