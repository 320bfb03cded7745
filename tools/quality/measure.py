"""Measures what `fastinpaint inpaint` fills on clips, by clip and kind of hole, for the tables of docs/quality.md.

    python -m tools.quality.measure fills CLIPS WORK [KIND ...]   # the fills that need no network, kept in WORK
    python -m tools.quality.measure rows CLIPS WORK [KIND ...]    # all figures, a row for each clip and kind
    python -m tools.quality.measure table WORK                    # the rows as Markdown

The first 32 frames of each clip's middle square at 128x128, holes from seed 0. `--adapted` among the kinds
also measures `inpaint --adapt 20`, which takes ten times as long.
WORK/rows.jsonl holds the figures; what is there already is kept. Clips validated on get fixed rectangles alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.inference import Settings
from fastinpaint.inference.complete import completed_stream
from fastinpaint.inference.trained import correction
from fastinpaint.metrics import border_error, hole_l1, nearest_in_time, psnr, ssim, telea, warping_error
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation import Adaptation, propagate
from fastinpaint.propagation.fill import Filled

FRAMES, SIZE, ADAPT = 32, 128, 20
ADAPTED = "--adapted"
FILLS = ("Telea", "nearest in time", "propagation", "with network", "adapted")
Columns = Mapping[str, tuple[Sequence[str], str]]
COLUMNS: Columns = {
    "mean error": (FILLS, ".1f"),
    "PSNR, dB": (("Telea", "propagation", "with network"), ".1f"),
    "SSIM": (("Telea", "propagation", "with network"), ".3f"),
    "warping error": (("source", "Telea", "propagation", "with network"), ".1f"),
    "border error": (("Telea", "propagation", "with network"), ".1f"),
}
"""Columns of the tables: the fills that each shows, and the numbers' form."""
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
VALIDATION = (
    "people/intel_asl_milk.mkv",
    "people/intel_asl_sister.mkv",
    "people/intel_prev_face-demographics-walking.gif",
    "scenes/intel_prev_classroom.gif",
    "scenes/intel_prev_store-aisle-detection.gif",
    "everyday/sam2_01_dog.mp4",
    "everyday/mdn_flower.mp4",
)
"""Clips that choices about both networks are made by: no training draw and no training view shows them."""
SETS = {"held out": HELD_OUT, "validated on": VALIDATION}

Scores = dict[str, dict[str, float]]


class Case(NamedTuple):
    """A clip, its hole, and its propagated fill."""

    video: np.ndarray
    mask: np.ndarray
    filled: Filled


def case(clips: Path, work: Path, name: str, kind: str, adapt: bool = False) -> Case:
    """A clip with a hole, filled at the first call, by adapted weights or the package's."""
    video = read_clip(clips / name, FRAMES, SIZE)
    mask = make_holes(kind, len(video), SIZE, SIZE, np.random.default_rng([0, 0])) > 0
    target = work / f"{Path(name).stem}_{kind}_{'adapted' if adapt else 'plain'}.npz"
    if not target.exists():
        blank = np.where(mask[..., None], 0, video).astype(np.uint8)
        filled = propagate(blank, mask, Adaptation(ADAPT) if adapt else None)
        part = target.with_suffix(".part.npz")
        np.savez_compressed(part, **filled._asdict())
        part.replace(target)
    found = np.load(target)
    return Case(video, mask, Filled(found["video"], found["confidence"]))


def measure(clips: Path, work: Path, name: str, kind: str, adapt: bool) -> Scores:
    """Each fill's figures."""
    video, mask, plain = case(clips, work, name, kind)
    blank = np.where(mask[..., None], 0, video).astype(np.uint8)
    fills = {
        "source": video,
        "Telea": telea(blank, mask),
        "nearest in time": nearest_in_time(blank, mask),
        "propagation": plain.video,
        "with network": _corrected(plain),
    }
    if adapt:
        fills["adapted"] = _corrected(case(clips, work, name, kind, adapt).filled)
    return {title: _figures(fill, video, mask) for title, fill in fills.items()}


def _corrected(filled: Filled) -> np.ndarray:
    network, seen = _network()
    settings = Settings(device="cpu", frames=seen.frames, size=seen.size)
    frames = completed_stream(network, zip(filled.video, 1 - filled.confidence, strict=True), settings)
    return np.stack(list(frames))


@cache
def _network():
    network, seen = correction()
    return network.eval(), seen


def _figures(result: np.ndarray, video: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    return {
        "mean error": hole_l1(result, video, mask),
        "PSNR, dB": psnr(result, video),
        "SSIM": ssim(result, video),
        "warping error": warping_error(result, video, mask),
        "border error": border_error(result, video, mask),
    }


def table(rows: dict[tuple[str, str], Scores]) -> str:
    """A table for each kind of hole: clip by clip, and the means of both sets.

    Fills that a row lacks are left out.
    """
    measured = set.intersection(*(set(scores) for scores in rows.values()))
    columns = {title: ([fill for fill in fills if fill in measured], form) for title, (fills, form) in COLUMNS.items()}
    head = " | ".join(f"{title}: {', '.join(fills)}" for title, (fills, _) in columns.items())
    parts = []
    for kind in HOLE_KINDS:
        lines = [f"| {kind} | {head} |", "|" + " --- |" * (1 + len(COLUMNS))]
        for title, names in SETS.items():
            kept = [name for name in names if (name, kind) in rows]
            lines += [f"| {Path(name).stem} | {_cells([rows[name, kind]], columns)} |" for name in kept]
            if kept:
                lines.append(
                    f"| **mean of {len(kept)} {title}** | {_cells([rows[name, kind] for name in kept], columns)} |"
                )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(scores: list[Scores], columns: Columns) -> str:
    """The columns of some clips, averaged."""
    return " | ".join(
        ", ".join(f"{np.mean([row[fill][title] for row in scores]):{form}}" for fill in fills)
        for title, (fills, form) in columns.items()
    )


def main() -> None:
    if sys.argv[1] == "table":
        lines = (Path(sys.argv[2]) / "rows.jsonl").read_text().splitlines()
        print(table({(row["clip"], row["holes"]): row["scores"] for row in map(json.loads, lines)}))
        return
    clips, work, adapt = Path(sys.argv[2]), Path(sys.argv[3]), ADAPTED in sys.argv
    kinds = [kind for kind in sys.argv[4:] if kind != ADAPTED] or list(HOLE_KINDS)
    work.mkdir(parents=True, exist_ok=True)
    target = work / "rows.jsonl"
    lines = target.read_text().splitlines() if target.exists() else []
    done = {(row["clip"], row["holes"]) for row in map(json.loads, lines)}
    for kind in kinds:
        for name in (*HELD_OUT, *(VALIDATION if kind == "rectangle" else ())):
            if sys.argv[1] == "fills":
                case(clips, work, name, kind)
                if adapt:
                    case(clips, work, name, kind, adapt)
            elif (name, kind) not in done:
                scores = measure(clips, work, name, kind, adapt)
                with target.open("a") as file:
                    file.write(json.dumps({"clip": name, "holes": kind, "scores": scores}) + "\n")
                print(name, kind, {fill: round(found["mean error"], 2) for fill, found in scores.items()}, flush=True)


if __name__ == "__main__":
    main()
