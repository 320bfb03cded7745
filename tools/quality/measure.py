"""Measures fills without weights on clips, by clip and kind of hole, for the tables of docs/quality.md.

    python -m tools.quality.measure rows CLIPS ROWS.jsonl [NAME ...]   # measure, a row for each clip and kind
    python -m tools.quality.measure table ROWS.jsonl                   # print the rows as Markdown

The first 32 frames of each clip's middle square at 128x128, holes from seed 0, as
`fastinpaint evaluate --video CLIP --frames 32 --adapt 20` measures them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.metrics import evaluate
from fastinpaint.metrics.clips import read_clip

FRAMES, SIZE, ADAPT = 32, 128, 20
COLUMNS = {
    "hole_l1": ("mean error", ("Telea", "nearest in time", "propagation", "propagation, adapted"), ".1f"),
    "psnr": ("PSNR, dB", ("Telea", "propagation"), ".1f"),
    "ssim": ("SSIM", ("Telea", "propagation"), ".3f"),
    "warping_error": ("warping error", ("source", "Telea", "propagation"), ".1f"),
    "border_error": ("border error", ("Telea", "propagation"), ".1f"),
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
    "people/intel_asl_eat.mkv",
    "people/intel_prev_head-pose-face-detection-male.gif",
    "people/intel_prev_face-demographics-walking.gif",
    "scenes/intel_bottle.mp4",
    "scenes/intel_bottle.mp4@600",
    "scenes/intel_person.mp4",
    "scenes/intel_person.mp4@700",
    "scenes/intel_prev_classroom.gif",
    "scenes/intel_prev_fruit-and-vegetable-detection.gif",
    "scenes/intel_prev_people-detection.gif",
    "scenes/intel_prev_store-aisle-detection.gif",
    "everyday/mdn_bug.mp4",
    "everyday/mdn_flower.mp4",
    "everyday/mdn_tears_of_steel.webm",
    "everyday/mdn_tears_of_steel.webm@240",
    "everyday/mdn_tears_of_steel.webm@500",
    "everyday/mdn_tears_of_steel.webm@760",
    "everyday/mdn_tears_of_steel.webm@1020",
    "everyday/mdn_tears_of_steel.webm@1280",
    "everyday/sam2_01_dog.mp4",
    "everyday/sam2_01_dog.mp4@150",
    "everyday/sam2_02_cups.mp4",
    "everyday/sam2_02_cups.mp4@150",
    "everyday/sam2_03_blocks.mp4",
)
"""The parts of clips whose hidden pixels taught the mixing network (`tools.blend.train`); @ says from which frame."""
SETS = {"held out": HELD_OUT, "trained on": TRAINED_ON}


Means = dict[str, dict[str, float]]


def measure(clips: Path, rows: Path, names: list[str]) -> None:
    """Append a row for each clip and kind that is not there yet."""
    done = set(_latest(rows)) if rows.exists() else set()
    for name in names or HELD_OUT:
        video = read_clip(clips / name, FRAMES, SIZE)
        for kind in HOLE_KINDS:
            if (name, kind) in done:
                continue
            found = evaluate({}, [video], kind, adapt=ADAPT, examples=0, progress=False)
            scores = {method: values._asdict() for method, values in found.means.items()}
            with rows.open("a") as file:
                file.write(json.dumps({"clip": name, "holes": kind, "scores": scores}) + "\n")
            print(name, kind, {method: round(values["hole_l1"], 2) for method, values in scores.items()}, flush=True)


def table(rows: Path) -> str:
    """A table for each kind of hole: clip by clip, and the means of both sets."""
    latest = _latest(rows)
    head = " | ".join(f"{title}: {', '.join(methods)}" for title, methods, _ in COLUMNS.values())
    parts = []
    for kind in HOLE_KINDS:
        lines = [f"| {kind} | {head} |", "|" + " --- |" * (1 + len(COLUMNS))]
        for title, names in SETS.items():
            kept = [name for name in names if (name, kind) in latest]
            lines += [f"| {Path(name).stem} | {_cells([latest[name, kind]])} |" for name in kept]
            if kept:
                means = _cells([latest[name, kind] for name in kept])
                lines.append(f"| **mean of {len(kept)} {title}** | {means} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _latest(rows: Path) -> dict[tuple[str, str], Means]:
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    return {(row["clip"], row["holes"]): row["scores"] for row in found}


def _cells(scores: list[Means]) -> str:
    """The columns of some clips, averaged."""
    return " | ".join(
        ", ".join(f"{np.mean([row[method][key] for row in scores]):{form}}" for method in methods)
        for key, (_, methods, form) in COLUMNS.items()
    )


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        print(table(Path(sys.argv[2])))
