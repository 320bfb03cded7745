"""Measures what `fastinpaint inpaint` fills on clips, by clip and kind of hole, for the tables of docs/quality.md.

    python -m tools.quality.measure fills CLIPS WORK    # the fills that need no network, kept in WORK
    python -m tools.quality.measure rows CLIPS WORK     # all figures, a row of WORK/rows.jsonl for each clip and kind
    python -m tools.quality.measure floors CLIPS WORK   # what choosing among the candidates could reach: floors.jsonl
    python -m tools.quality.measure table [WORK]        # the rows as Markdown; without WORK, those of docs/results

The first 32 frames of each clip's middle square at 128x128, holes from seed 0. Clips validated on get fixed rectangles
alone. `--kinds` names kinds of holes; `--adapted` also measures `inpaint --adapt`, which takes ten times as long. What
is there already is kept, so a stopped command can be given again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.metrics import BASELINES, border_error, hole_l1, psnr, ssim, warping_error
from tools.quality.cases import SETS, Cases, case, clips_of, corrected
from tools.quality.floors import write_floors

ADAPTED = "--adapted"
RESULTS = Path(__file__).parents[2] / "docs" / "results"
COMMITTED, COMMITTED_FLOORS = RESULTS / "quality.jsonl", RESULTS / "quality_floors.jsonl"
FILLS = (*BASELINES, "propagation", "with network", "adapted")
OTHERS = {"PSNR, dB": ".1f", "SSIM": ".3f", "warping error": ".1f", "border error": ".1f"}
"""Figures beside the mean error, and their form."""
ALLOWED = 1.03
"""What is filled may err by this multiple of the better of Telea's method and propagation alone, on every clip."""

Scores = dict[str, dict[str, float]]
"""By fill and figure."""
Rows = dict[tuple[str, str], Scores]
"""By clip and kind of hole."""


def fill_of(title: str, clips: Path, work: Path, name: str, kind: str) -> np.ndarray:
    """A clip filled; "source" is the clip."""
    video, mask, filled = case(clips, work, name, kind, title == "adapted")
    if title in BASELINES:
        return BASELINES[title](np.where(mask[..., None], 0, video).astype(np.uint8), mask)
    return {"source": lambda: video, "propagation": lambda: filled.video}.get(title, lambda: corrected(filled))()


def _figures(title: str, result: np.ndarray, video: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    found = {"warping error": warping_error(result, video, mask)}
    if title != "source":  # all others of its figures are trivial
        found |= {
            "mean error": hole_l1(result, video, mask),
            "PSNR, dB": psnr(result, video),
            "SSIM": ssim(result, video),
            "border error": border_error(result, video, mask),
        }
    return {figure: round(float(value), 4) for figure, value in found.items()}


def read_rows(path: Path) -> Rows:
    """Figures by clip and kind of hole; the last row of each counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["clip"], row["holes"]): row["scores"] for row in map(json.loads, lines)}


def above(scores: Scores) -> float:
    """What `inpaint` errs by as a multiple of what the better of Telea's method and propagation alone does."""
    filled, *others = (scores[fill]["mean error"] for fill in ("with network", "propagation", "Telea"))
    return filled / min(others)


def table(rows: Rows) -> str:
    """Two tables for each kind of hole: the mean error clip by clip, and the other figures' means.

    Fills that a clip of the kind lacks are left out.
    """
    parts = []
    for kind in [kind for kind in HOLE_KINDS if any(holes == kind for _, holes in rows)]:
        mine = {name: scores for (name, holes), scores in rows.items() if holes == kind}
        shown = [fill for fill in FILLS if all(fill in scores for scores in mine.values())]
        sets = {
            title: [mine[name] for name in names if name in mine]
            for title, names in SETS.items()
            if any(name in mine for name in names)
        }
        lines = [_line(f"{kind}: mean error", shown), _line("---", ["---"] * len(shown))]
        for title, names in SETS.items():
            lines += [_line(Path(name).stem, _cells([mine[name]], shown)) for name in names if name in mine]
            if title in sets:
                lines.append(_line(f"**mean of {len(sets[title])} {title}**", _cells(sets[title], shown)))
        parts.append("\n".join(lines))
        shown = ["source", *shown]
        lines = [_line(f"{kind}: other figures", shown), _line("---", ["---"] * len(shown))]
        for title, scores in sets.items():
            lines += [_line(f"{figure}, {title}", _cells(scores, shown, figure)) for figure in OTHERS]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def _cells(scores: list[Scores], fills: Sequence[str], figure: str = "mean error") -> list[str]:
    """The means of some clips."""
    form = OTHERS.get(figure, ".2f")
    return [
        f"{np.mean([row[fill][figure] for row in scores]):{form}}" if figure in scores[0][fill] else ""
        for fill in fills
    ]


def write_rows(clips: Path, work: Path, cases: Cases, wanted: Sequence[str]) -> None:
    """Measure what WORK/rows.jsonl lacks."""
    target = work / "rows.jsonl"
    rows = read_rows(target)
    for name, kind in cases:
        scores = rows.get((name, kind), {})
        lacking = [fill for fill in ("source", *wanted) if fill not in scores]
        if not lacking:
            continue
        video, mask, _ = case(clips, work, name, kind)
        scores = scores | {
            fill: _figures(fill, fill_of(fill, clips, work, name, kind), video, mask) for fill in lacking
        }
        with target.open("a") as file:
            file.write(json.dumps({"clip": name, "holes": kind, "scores": scores}) + "\n")
        print(name, kind, {fill: scores[fill]["mean error"] for fill in wanted}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("fills", "rows", "floors", "table"))
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--kinds", nargs="+", choices=HOLE_KINDS, default=HOLE_KINDS)
    parser.add_argument("--adapted", action="store_true")
    args = parser.parse_args()
    if args.command == "table":
        print(table(read_rows(args.folders[0] / "rows.jsonl" if args.folders else COMMITTED)))
        return
    clips, work = args.folders
    work.mkdir(parents=True, exist_ok=True)
    cases = [(name, kind) for kind in args.kinds for name in clips_of(kind)]
    if args.command == "floors":
        write_floors(clips, work, cases)
    elif args.command == "rows":
        write_rows(clips, work, cases, FILLS if args.adapted else FILLS[:-1])
    else:
        for name, kind in cases:
            for adapted in (False, True) if args.adapted else (False,):
                case(clips, work, name, kind, adapted)


if __name__ == "__main__":
    main()
