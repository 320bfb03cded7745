"""Measures the fill with and without the package's network on the clips that are held out, for docs/quality.md.

    python -m tools.weights.measure CLIPS ROWS.jsonl [KIND ...]   # measure what is not there yet, then print the table

As `tools.quality.measure`: the first 32 frames of each clip's middle square at 128x128, holes from seed 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.inference import Settings
from fastinpaint.inference.complete import completed_stream
from fastinpaint.inference.trained import correction
from fastinpaint.metrics import border_error, hole_l1, telea, warping_error
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation import propagate
from tools.quality.measure import FRAMES, HELD_OUT, SIZE
from tools.weights.draws import VALIDATION

MEASURES = {"mean error": hole_l1, "border": border_error, "warping": warping_error}


def measure(clips: Path, name: str, kind: str) -> dict[str, dict[str, float]]:
    """Each fill's figures."""
    video = read_clip(clips / name, FRAMES, SIZE)
    mask = make_holes(kind, len(video), SIZE, SIZE, np.random.default_rng([0, 0])) > 0
    blank = np.where(mask[..., None], 0, video).astype(np.uint8)
    network, seen = correction()
    filled = propagate(blank, mask)
    settings = Settings(device="cpu", frames=seen.frames, size=seen.size)
    corrected = completed_stream(network.eval(), zip(filled.video, 1 - filled.confidence, strict=True), settings)
    results = {"Telea": telea(blank, mask), "propagation": filled.video, "with network": np.stack(list(corrected))}
    return {
        label: {title: found(result, video, mask) for title, found in MEASURES.items()}
        for label, result in results.items()
    }


def table(rows: list[dict], kind: str, names: tuple[str, ...], title: str) -> list[str]:
    """Rows of a kind: clip by clip, and their mean."""
    found = {row["clip"]: row["scores"] for row in rows if row["holes"] == kind and row["clip"] in names}
    lines = [f"| {Path(name).stem} | " + " | ".join(_cells([scores])) + " |" for name, scores in found.items()]
    if found:
        lines.append(f"| **mean of {len(found)} {title}** | " + " | ".join(_cells(list(found.values()))) + " |")
    return lines


def _cells(scores: list[dict[str, dict[str, float]]]) -> list[str]:
    labels = list(scores[0])
    return [", ".join(f"{np.mean([s[label][title] for s in scores]):.1f}" for label in labels) for title in MEASURES]


def main() -> None:
    clips, target, kinds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(HOLE_KINDS)
    rows = [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else []
    done = {(row["clip"], row["holes"]) for row in rows}
    for kind in kinds:
        for name in (*HELD_OUT, *VALIDATION):
            if (name, kind) not in done:
                rows.append({"clip": name, "holes": kind, "scores": measure(clips, name, kind)})
                with target.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(name, kind, {k: round(v["mean error"], 2) for k, v in rows[-1]["scores"].items()}, flush=True)
    for kind in kinds:
        print(f"\n| {kind} | " + " | ".join(f"{title}: Telea, propagation, with network" for title in MEASURES) + " |")
        print("|" + " --- |" * (1 + len(MEASURES)))
        for names, title in ((HELD_OUT, "held out"), (VALIDATION, "validated on")):
            print("\n".join(table(rows, kind, names, title)))


if __name__ == "__main__":
    main()
