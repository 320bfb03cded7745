"""Rows to pictures and one self-contained page.

    python -m benchmarks.report [ROWS.jsonl ...] [--out build/report]

Without files, all of ``benchmarks/results/*.jsonl``. Every picture shows rows of one device; where a case was
measured more than once, the newest row counts, and the history shows the others.
"""

from __future__ import annotations

import argparse
import base64
import html
from pathlib import Path
from typing import Any

from fastinpaint.bench import rows
from fastinpaint.bench.contenders import OURS
from fastinpaint.bench.plots import draw_bars, draw_lines, draw_roofline
from fastinpaint.errors import UserError

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 3rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px; margin: 1rem 0 }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
img { max-width: 100%; margin: 1rem 0 } .ours { color: #c4472b; font-weight: 600 } .note { color: #777 }
"""


def newest(found: list[Row]) -> list[Row]:
    """The last row of each case and contender."""
    return list({(row["case"], row["contender"]): row for row in sorted(found, key=lambda r: r["date"])}.values())


def draw_step(found: list[Row], out: Path) -> list[Path]:
    """Bars of the training step: time, kept bytes, peak memory."""
    step = [row for row in found if row["case"] == "step"]
    if not step:
        return []
    size = step[0].get("workload", step[0])
    sizes = f"F={size['frames']}, {size['size']}x{size['size']}"
    wanted = (
        ("p50", 1.0, "s", f"One training step of the whole system, {sizes}", "step_time.png"),
        ("kept_bytes", 2**-30, "GiB", f"Kept between forward and backward, {sizes}", "step_kept.png"),
        ("peak_bytes", 2**-30, "GiB", f"Peak memory of the process, {sizes}", "step_peak.png"),
    )
    pictures = []
    for field, factor, unit, title, name in wanted:
        values = {row["contender"]: factor * row[field] for row in step if row.get(field)}
        if values:
            draw_bars(values, title, unit, out / name)
            pictures.append(out / name)
    return pictures


def draw_layers(found: list[Row], out: Path) -> list[Path]:
    """The roofline of all layers."""
    points = [row for row in found if row.get("kind") == "layer" and row["case"].endswith("training")]
    if not points:
        return []
    draw_roofline(points, points[-1]["ceilings"], out / "roofline.png")
    return [out / "roofline.png"]


def draw_frames(found: list[Row], out: Path) -> list[Path]:
    """Step time and peak memory against F, from every row of a step that knows its workload."""
    by_name: dict[str, dict[int, Row]] = {}
    for row in found:
        if row["case"] == "step" and "workload" in row:
            by_name.setdefault(row["contender"], {})[row["workload"]["frames"]] = row
    if max((len(v) for v in by_name.values()), default=0) < 2:
        return []
    pictures = []
    for field, factor, label, name in (("p50", 1.0, "seconds a step", "frames_time.png"),
                                       ("peak_bytes", 2**-30, "peak GiB", "frames_memory.png")):  # fmt: skip
        series = {
            contender: (sorted(rows_of), [factor * rows_of[f][field] for f in sorted(rows_of)])
            for contender, rows_of in by_name.items()
            if all(row.get(field) for row in rows_of.values())
        }
        draw_lines(series, f"A training step against F: {label}", "F, frames of a video", label, out / name)
        pictures.append(out / name)
    return pictures


def draw_budgets(found: list[Row], out: Path) -> list[Path]:
    """The largest sizes within a budget."""
    pictures = []
    for case in sorted({row["case"] for row in found if row["case"].startswith("largest")}):
        rows_of = [row for row in found if row["case"] == case]
        axis = case.split()[1]
        title = f"The largest {axis} that trains in {rows_of[0]['budget_gb']:g} GB"
        name = out / f"largest_{axis}.png"
        draw_bars({row["contender"]: float(row["value"]) for row in rows_of}, title, "", name)
        pictures.append(name)
    return pictures


def draw_history(found: list[Row], out: Path) -> list[Path]:
    """Our step's speed-up over the fastest rival of the same file, by date."""
    runs: dict[str, dict[str, float]] = {}
    for row in found:
        if row["case"] == "step":
            runs.setdefault(f"{row['date'][:10]} {row['commit']}", {})[row["contender"]] = row["p50"]
    history: dict[str, float] = {}
    for run, times in runs.items():
        rivals = [t for name, t in times.items() if name not in OURS]
        if rivals and OURS[0] in times:
            history[run] = min(rivals) / times[OURS[0]]
    if len(history) < 2:
        return []
    draw_bars(history, "Speed-up of a training step over the fastest rival of the same run", "x", out / "history.png")
    return [out / "history.png"]


def table(found: list[Row]) -> str:
    """All rows as HTML."""
    head = "<tr><th>case<th>contender<th>p50 ms<th>p20<th>p80<th>GFLOP/s<th>GB/s<th>% of floor<th></tr>"
    lines = []
    for row in sorted(found, key=lambda r: r["case"]):
        if "p50" not in row:
            continue
        cells = [f"{1e3 * row[q]:.2f}" for q in ("p50", "p20", "p80")]
        cells += [f"{row[k]:.0f}" if row.get(k) else "" for k in ("gflops", "gbs", "percent_of_floor")]
        style = ' class="ours"' if row["contender"] in OURS else ""
        noisy = '<span class="note">noisy</span>' if row["noisy"] else ""
        names = f"<td>{html.escape(row['case'])}<td{style}>{html.escape(row['contender'])}"
        lines.append(f"<tr>{names}{''.join(f'<td>{c}' for c in cells)}<td>{noisy}</tr>")
    return f"<table>{head}{''.join(lines)}</table>"


def image(picture: Path) -> str:
    """A picture as an HTML element that holds its bytes."""
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="{picture.stem}" src="data:image/png;base64,{data}">'


def page(found: list[Row], pictures: list[Path]) -> str:
    """One page, pictures inside."""
    last = max(found, key=lambda r: r["date"])
    versions = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
    about = f"{last['device']} · {versions} · commit {last['commit']} · {last['date']}"
    images = "".join(
        f'<img alt="{p.stem}" src="data:image/png;base64,{base64.b64encode(p.read_bytes()).decode()}">'
        for p in pictures
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>fastinpaint: measured</title>'
        f"<style>{STYLE}</style>"
        f"<h1>fastinpaint: measured</h1><p>{html.escape(about)}</p>{images}<h2>Every row</h2>{table(found)}</html>"
    )


def main() -> None:
    """Write the page and the pictures, and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/report"))
    args = parser.parse_args()
    files = args.files or sorted(RESULTS.glob("*.jsonl"))
    everything = rows.read(files)
    if not everything:
        raise UserError(f"no rows in {', '.join(map(str, files)) or RESULTS}: run `make bench` first.")
    args.out.mkdir(parents=True, exist_ok=True)
    device = max(everything, key=lambda r: r["date"])["device"]
    everything = [row for row in everything if row["device"] == device]
    found = newest(everything)
    pictures = [
        *draw_step(found, args.out),
        *draw_layers(found, args.out),
        *draw_frames(everything, args.out),
        *draw_budgets(found, args.out),
        *draw_history(everything, args.out),
    ]
    beside = args.out / ".index.html"
    beside.write_text(page(found, pictures))
    beside.replace(args.out / "index.html")
    print(f"{args.out / 'index.html'}: {len(found)} rows, {len(pictures)} pictures")


if __name__ == "__main__":
    main()
