"""Measures completion without weights by clip and kind of hole, for the tables of docs/quality.md.

    python -m tools.quality.measure rows CLIPS ROWS.jsonl [NAME ...]   # measure, one row per clip and kind
    python -m tools.quality.measure table ROWS.jsonl                   # print the rows as Markdown

The figure is the mean absolute error inside the holes, 0 to 255, on the first 32 frames of each clip's centre square at
128x128, with the holes of `fastinpaint evaluate --video CLIP --frames 32` (seed 0).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.metrics import hole_l1, nearest_in_time, telea
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation import propagate

FRAMES, SIZE = 32, 128
METHODS = {
    "Telea": telea,
    "nearest in time": nearest_in_time,
    "propagation": lambda video, mask: propagate(video, mask).video,
}
HELD_OUT = (
    "people/intel_asl_walk.mkv",
    "people/intel_asl_yes.mkv",
    "people/intel_prev_head-pose-face-detection-female-and-male.gif",
    "driving/udacity_solidWhiteRight.mp4",
    "driving/udacity_vd_test.mp4",
    "scenes/intel_car.mp4",
    "scenes/intel_prev_person-bicycle-car-detection.gif",
    "scenes/intel_prev_worker-zone-detection.gif",
    "everyday/sam2_04_coffee.mp4",
    "everyday/sam2_05_default_juggle.mp4",
    "everyday/sam2_bedroom.mp4",
    "everyday/mdn_friday.mp4",
)
TRAINED_ON = (
    "people/intel_asl_again.mkv",
    "people/intel_asl_book.mkv",
    "people/intel_prev_head-pose-face-detection-male.gif",
    "scenes/intel_bottle.mp4",
    "scenes/intel_prev_store-aisle-detection.gif",
    "everyday/sam2_01_dog.mp4",
)
"""The clips that the blending network was trained on (`tools.blend.train`)."""
SETS = {"held out": HELD_OUT, "trained on": TRAINED_ON}


def measure(clips: Path, rows: Path, names: list[str]) -> None:
    """Append one row per clip and kind."""
    for name in names or [*HELD_OUT, *TRAINED_ON]:
        video = read_clip(clips / name, FRAMES, SIZE)
        for kind in HOLE_KINDS:
            frames, height, width = video.shape[:3]
            mask = make_holes(kind, frames, height, width, np.random.default_rng([0, 0])) > 0
            blank = np.where(mask[..., None], 0, video).astype(np.uint8)
            errors = {method: hole_l1(fill(blank, mask), video, mask) for method, fill in METHODS.items()}
            with rows.open("a") as file:
                file.write(json.dumps({"clip": name, "holes": kind, "errors": errors}) + "\n")
            print(name, kind, {method: round(error, 2) for method, error in errors.items()}, flush=True)


def table(rows: Path) -> str:
    """A table of errors by clip, and the means of both sets."""
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    latest = {(row["clip"], row["holes"]): row["errors"] for row in found}
    head = " | ".join(f"{kind}: {', '.join(METHODS)}" for kind in HOLE_KINDS)
    lines = [f"| clip | {head} |", "|" + " --- |" * (1 + len(HOLE_KINDS))]
    for title, names in SETS.items():
        kept = [name for name in names if all((name, kind) in latest for kind in HOLE_KINDS)]
        for name in kept:
            lines.append(f"| {Path(name).stem} | " + " | ".join(_cell([latest[name, k]]) for k in HOLE_KINDS) + " |")
        if kept:
            means = " | ".join(f"**{_cell([latest[n, k] for n in kept])}**" for k in HOLE_KINDS)
            lines.append(f"| **mean of {len(kept)} {title}** | {means} |")
    return "\n".join(lines)


def _cell(errors: list[dict[str, float]]) -> str:
    return ", ".join(f"{np.mean([row[method] for row in errors]):.1f}" for method in METHODS)


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        print(table(Path(sys.argv[2])))
