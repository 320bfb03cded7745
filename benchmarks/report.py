"""Turns rows of results into pictures and one self-contained page.

    python -m benchmarks.report [ROWS.jsonl ...] [--out build/report] [--check SUMMARY.json]

Without files it reads ``benchmarks/results/*.jsonl``. The page shows the newest row of each case on the machine that
was measured last; the history shows older rows. ``--check`` adds the results of ``make gpu-check``.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import sys
from pathlib import Path

from benchmarks.pictures import Captions, Row, draw_all, newest, sizes
from fastinpaint.bench import rows
from fastinpaint.bench.contenders import is_ours
from fastinpaint.bench.plots import label
from fastinpaint.errors import UserError
from fastinpaint.files import replace_text

RESULTS = Path(__file__).parent / "results"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
.text { text-align: left } .wide { white-space: normal }
img { max-width: 100% } figure { margin: 2rem 0 } figcaption, .note { color: #777; font-size: 14px }
.ours { color: #c4472b; font-weight: 600 }
"""
HEAD = ("p50 ms", "predicted", "p20", "p80", "runs", "GFLOP/s", "GB/s", "% of floor", "kept MiB", "peak MiB", "")
KINDS = {
    "step": "Training step and inference",
    "swap": "A U-Net that is not ours, batch 8 of 128x128",
    "op": "Ops",
    "layer": "Layers",
}


def machine(row: Row) -> str:
    """The device without the number of threads, which memory and convergence do not depend on."""
    return row["device"].rsplit(", ", 1)[0]


def cells(row: Row) -> list[str]:
    """A row's figures, in the order of HEAD."""
    if "not_measured" in row:
        return [f'<td class="text" colspan="{len(HEAD)}">not measured: {html.escape(row["not_measured"])}']
    figures = [f"{1e3 * row[q]:.2f}" if row.get(q) is not None else "" for q in ("p50", "predicted", "p20", "p80")]
    figures.append(str(row["runs"]))
    figures += [f"{row[key]:.0f}" if row.get(key) else "" for key in ("gflops", "gbs", "percent_of_floor")]
    figures += [f"{row[key] / 2**20:.1f}" if row.get(key) is not None else "" for key in ("kept_bytes", "peak_bytes")]
    return [f"<td>{figure}" for figure in figures] + ['<td class="note">' + ("noisy" if row["noisy"] else "")]


def case_of(row: Row) -> str:
    """The case, with its size if it has one."""
    frames, size, _ = sizes(row)
    return row["case"] + (f", F={frames}, {size}x{size}" if frames else "")


def table(found: list[Row], kind: str) -> str:
    """All rows of a kind as an HTML table, in order of measurement."""
    chosen = [row for row in found if row.get("kind", "step") == kind and ("p50" in row or "not_measured" in row)]
    if not chosen:
        return ""
    head = '<tr><th class="text">case<th class="text">contender' + "".join(f"<th>{title}" for title in HEAD)
    lines, before = [], ""
    for row in chosen:
        case, style = case_of(row), "ours" if is_ours(row["contender"]) else ""
        names = f'<td class="text">{html.escape(case) if case != before else ""}'
        names += f'<td class="text {style}">{html.escape(label(row["contender"]))}'
        lines.append(f"<tr>{names}{''.join(cells(row))}")
        before = case
    return f"<h2>{KINDS[kind]}</h2><table>{head}{''.join(lines)}</table>"


def check_table(summary: Path | None) -> str:
    """The outcome of each step of ``make gpu-check``."""
    if summary is None or not summary.exists():
        return ""
    lines = [
        f'<tr><td class="text">{step["part"]}<td class="text">{step["name"]}<td>{step["seconds"]:.0f}'
        f'<td class="text">{html.escape(step["status"])}<td class="text wide">{html.escape(step["last"])}'
        for step in json.loads(summary.read_text())
    ]
    head = '<tr><th class="text">part<th class="text">step<th>s<th class="text">outcome<th class="text">last line'
    return f"<h2>gpu-check</h2><table>{head}{''.join(lines)}</table>"


def figure(picture: Path, command: str) -> str:
    """A picture as an HTML element with embedded data, captioned by the command of its rows."""
    data = base64.b64encode(picture.read_bytes()).decode()
    caption = f"<figcaption><code>{html.escape(command)}</code></figcaption>"
    return f'<figure><img alt="{picture.stem}" src="data:image/png;base64,{data}">{caption}</figure>'


def page(found: list[Row], pictures: Captions, check: str) -> str:
    """The page with its pictures embedded."""
    about = "No row was measured."
    if found:
        last = max(found, key=lambda row: row["date"])
        versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
        about = f"{last['device']} · {versions} · commit {last['commit']} · {last['date']}"
    note = (
        "p20, p50, p80: percentiles of the runs; of ops and layers on a CPU, of those of the fastest of several turns. "
        "Noisy: the medians of two halves of the runs, of the two fastest turns, or of two runs of the suite, are more "
        "than 5 % apart. % of floor: the time that this machine's measured copy and matrix product "
        "rates allow, over the time taken; taps on padding count as no work, and Winograd multiplies less and may go "
        "beyond 100. Predicted: the least time by the machine code, on an H200 without latency. Kept: for backward. "
        "Peak of a step on a CPU: resident memory of a process "
        "of its own; peak elsewhere: what torch allocates."
    )
    figures = "".join(figure(picture, command) for picture, command in pictures.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>fastinpaint: measured</title>'
        f"<style>{STYLE}</style><h1>fastinpaint: measured</h1><p>{html.escape(about)}</p>{check}{figures}"
        f'{"".join(table(found, kind) for kind in KINDS)}<p class="note">{note}</p></html>\n'
    )


def main() -> int:
    """Write the page and the pictures. Returns 2 if there are no rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/report"))
    parser.add_argument("--check", type=Path, metavar="SUMMARY.json", help="what gpu-check found")
    args = parser.parse_args()
    files = args.files or sorted(RESULTS.glob("*.jsonl"))
    try:
        everything = rows.read([file for file in files if file.exists()])
        if not everything and args.check is None:
            raise UserError(f"no rows in {', '.join(map(str, files)) or RESULTS}: run `make bench` first.")
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    if everything:
        last = machine(max(everything, key=lambda row: row["date"]))
        everything = [row for row in everything if machine(row) == last]
    found = newest(everything)
    pictures = draw_all(found, everything, args.out)
    replace_text(args.out / "index.html", page(found, pictures, check_table(args.check)))
    print(f"{args.out / 'index.html'}: {len(found)} rows, {len(pictures)} pictures")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
