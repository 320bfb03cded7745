"""How low the error in a hole could be if the truth chose among everything that could fill it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.propagation.kriging import likely
from fastinpaint.propagation.rounds import Clip
from fastinpaint.propagation.shown import Frames, stacked
from tools.quality.cases import HELD_OUT, Case, Cases, case, corrected

BLOCK = 8
FLOORS = ("hole of a clip", "hole of a frame", f"{BLOCK} x {BLOCK} pixels", "pixel")
"""What one candidate is chosen for."""

Floors = dict[tuple[str, str], dict[str, float]]
"""By clip and kind of hole: mean errors."""


def write_floors(clips: Path, work: Path, cases: Cases) -> None:
    """Measure what WORK/floors.jsonl lacks, and print the means."""
    target = work / "floors.jsonl"
    found = read_floors(target)
    for name, kind in cases:
        if (name, kind) not in found:
            found[name, kind] = floors(case(clips, work, name, kind))
            with target.open("a") as file:
                file.write(json.dumps({"clip": name, "holes": kind, "floors": found[name, kind]}) + "\n")
            print(name, kind, found[name, kind], flush=True)
    print(table(found))


def read_floors(path: Path) -> Floors:
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["clip"], row["holes"]): row["floors"] for row in map(json.loads, lines)}


def floors(found: Case) -> dict[str, float]:
    """The mean error of the fill, and of the candidate that the truth chooses for each of `FLOORS`.

    The candidates are those that propagation mixes, kriging, the mixture, and the mixture corrected by the network.
    """
    video, mask, filled = found
    window = Frames(zip(np.where(mask[..., None], 0, video).astype(np.uint8), mask, strict=True)).take(len(video))
    clip = Clip(*stacked(window), [shown.telea for shown in window])
    searched, network = clip.search(), corrected(filled)
    errors = []
    for t in range(len(video)):
        part, hole, _ = clip.around(t)
        values = clip.candidates(t, searched, searched.mosaic)
        plain = likely(part, hole, *values.values[:2])
        own = (network[t][mask[t]], filled.video[t][mask[t]], plain)
        every = np.stack([*own, *values.values]).astype(np.float32)
        error = np.abs(every - video[t][mask[t]]).mean(2)
        error[len(own) :][~values.present] = np.inf
        errors.append(error)
    return {name: round(float(value), 4) for name, value in chosen(errors, mask).items()}


def chosen(errors: Sequence[np.ndarray], mask: np.ndarray) -> dict[str, float]:
    """The first candidate's mean error, and that of the best for each of `FLOORS`.

    Args:
        errors: for each frame ``[K, N]``, infinite where a candidate is absent; the first candidate stands in there.
        mask: bool ``[T, H, W]``.
    """
    whole = [np.where(np.isinf(error), error[0], error) for error in errors]
    count, width = int(mask.sum()), -(-mask.shape[2] // BLOCK)
    blocks = np.zeros(4)
    for error, hole in zip(whole, mask, strict=True):
        rows, columns = np.nonzero(hole)
        block = rows // BLOCK * width + columns // BLOCK
        sums = np.stack([np.bincount(block, one) for one in error])
        blocks += [0, error.sum(1).min(), sums.min(0).sum(), error.min(0).sum()]
    blocks[0] = np.sum([error.sum(1) for error in whole], 0).min()
    return {"fill": sum(float(error[0].sum()) for error in whole) / count} | dict(
        zip(FLOORS, (blocks / count).tolist(), strict=True)
    )


def table(found: Floors) -> str:
    """The means of the clips held out."""
    kinds = [kind for kind in HOLE_KINDS if all((name, kind) in found for name in HELD_OUT)]
    lines = [f"| one candidate for each | {' | '.join(kinds)} |", "|" + " --- |" * (1 + len(kinds))]
    for title in ("fill", *FLOORS):
        means = [f"{np.mean([found[name, kind][title] for name in HELD_OUT]):.2f}" for kind in kinds]
        lines.append(f"| {'none: the fill' if title == 'fill' else title} | {' | '.join(means)} |")
    return "\n".join(lines)
