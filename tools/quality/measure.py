"""Measures fills without weights on clips, by clip and kind of hole, for the tables of docs/quality.md.

    python -m tools.quality.measure rows CLIPS ROWS.jsonl [NAME ...]   # measure, a row for each clip and kind
    python -m tools.quality.measure table ROWS.jsonl                   # print the rows as Markdown

Sixty-four frames of each clip's middle square at 128x128, from the start of the clip, holes from seed 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.metrics import evaluate
from fastinpaint.metrics.clips import read_clip

FRAMES, SIZE = 64, 128
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
    "scenes/intel_person.mp4",
    "scenes/intel_prev_store-aisle-detection.gif",
    "scenes/intel_prev_fruit-and-vegetable-detection.gif",
    "everyday/sam2_01_dog.mp4",
    "everyday/sam2_02_cups.mp4",
    "everyday/mdn_flower.mp4",
    "everyday/mdn_bug.mp4",
)
"""The clips whose hidden pixels taught the mixing network (`tools.blend.train`)."""
SETS = {"held out": HELD_OUT, "trained on": TRAINED_ON}


def measure(clips: Path, rows: Path, names: list[str]) -> None:
    """Append a row for each clip and kind."""
    for name in names or [*HELD_OUT, *TRAINED_ON]:
        video = read_clip(clips / name, FRAMES, SIZE)
        for kind in HOLE_KINDS:
            found = evaluate({}, [video], kind, progress=False, examples=0)
            means = {method: scores._asdict() for method, scores in found.means.items()}
            with rows.open("a") as file:
                file.write(json.dumps({"clip": name, "holes": kind, "means": means}) + "\n")
            print(name, kind, {method: round(s["hole_l1"], 2) for method, s in means.items()}, flush=True)


def table(rows: Path) -> str:
    """Means of both sets with every measure, then mean errors clip by clip."""
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    latest = {(row["clip"], row["holes"]): row["means"] for row in found}
    methods = list(found[0]["means"])
    lines = ["| clips | holes | method | hole L1 | PSNR dB | SSIM | temporal L1 | warping L1 |", "|" + " --- |" * 8]
    for title, names in SETS.items():
        for kind in HOLE_KINDS:
            kept = [latest[name, kind] for name in names if (name, kind) in latest]
            for method in methods if kept else ():
                values = [np.mean([means[method][key] for means in kept]) for key in kept[0][method]]
                cells = " | ".join(f"{v:.4f}" if i == 2 else f"{v:.2f}" for i, v in enumerate(values))
                lines.append(f"| {len(kept)} {title} | {kind} | {method} | {cells} |")
    lines += ["", "| clip | " + " | ".join(f"{k}: Telea, nearest, propagation" for k in HOLE_KINDS) + " |"]
    lines.append("|" + " --- |" * (1 + len(HOLE_KINDS)))
    for names in SETS.values():
        for name in (n for n in names if all((n, k) in latest for k in HOLE_KINDS)):
            cells = (
                ", ".join(f"{latest[name, k][m]['hole_l1']:.1f}" for m in ("Telea", "nearest in time", "propagation"))
                for k in HOLE_KINDS
            )
            lines.append(f"| {Path(name).stem} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        print(table(Path(sys.argv[2])))
