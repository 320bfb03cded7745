"""``python -m tools.verify.bad_inputs.report RESULTS``: the counts by kind, into docs/reliability.md."""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.inspect.page import replace_table

ROOT = Path(__file__).parents[3]
PAGE, BEFORE = ROOT / "docs/reliability.md", Path(__file__).with_name("before.json")
BEGIN, END = "<!-- counts of bad input: begin -->", "<!-- counts of bad input: end -->"
COLUMNS = ("calls", "faults", "tracebacks", "unbounded")

Counts = dict[str, list[int]]


def counted(rows: Iterable[dict[str, Any]]) -> Counts:
    """Calls, calls with a fault, with a traceback, and without bound in time or memory, by kind."""
    counts: Counts = collections.defaultdict(lambda: [0] * len(COLUMNS))
    for row in rows:
        kind, faults = row["kind"].partition(":")[0], row["faults"]
        unbounded = any(fault.startswith(("took ", "ran for ")) for fault in faults)
        traceback = any(fault.startswith("traceback") for fault in faults)
        for place, happened in enumerate((True, bool(faults), traceback, unbounded)):
            counts[kind][place] += happened
    return dict(counts)


def table(before: Counts, now: Counts) -> str:
    """Markdown: the counts before and now, a row a kind."""
    lines = [
        "| kind | calls before | with a fault | tracebacks | without bound | calls now | with a fault |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    empty = [0] * len(COLUMNS)
    lines += [_row(kind, before.get(kind, empty), now.get(kind, empty)) for kind in sorted(before.keys() | now.keys())]
    totals = [[sum(column) for column in zip(*counts.values(), strict=True)] or empty for counts in (before, now)]
    return "\n".join([*lines, _row("**all**", *totals)])


def _row(kind: str, before: list[int], now: list[int]) -> str:
    return f"| {kind} | {' | '.join(map(str, [*before, *now[:2]]))} |"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows that the harness appended to a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(results: Path) -> None:
    """Write the counts into the page, with the slowest call and the largest process."""
    rows = rows_of(results)
    seconds, mebibytes = max(row["seconds"] for row in rows), max(row["peak_mib"] for row in rows)
    extremes = f"The slowest of the calls now took {seconds:.1f} s, the largest process {mebibytes} MiB."
    text = f"{table(json.loads(BEFORE.read_text()), counted(rows))}\n\n{extremes}"
    replace_table(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
