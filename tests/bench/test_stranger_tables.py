"""The tables of networks of others, and that the page of results has those of the committed rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.strangers.tables import newest, ranges, runs_of, table
from fastinpaint.bench import rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/results/any_network.md").read_text()
QUIET = [  # runs of all fourteen networks, on machines with nothing else to do
    "2026-11-29-strangers-final.jsonl",
    "2026-11-29-strangers-large-tiles.jsonl",
    "2026-11-30-strangers.jsonl",
    "2026-11-30-strangers-avx2.jsonl",
    "2026-11-30-strangers-held.jsonl",
    "2026-11-30-strangers-gain.jsonl",
    "2026-11-30-strangers-confirmed.jsonl",
    "2026-12-01-strangers-one-pass.jsonl",
    "2026-12-01-strangers-chains.jsonl",
]
MIB = 1 << 20


def run(case: str, seconds: tuple[float, float, float], kept: int, device: str = "a", **of_ours: Any) -> list[Any]:
    """The three rows of a network: stock contiguous, channels-last, ours. Stock keeps 100 MiB."""
    names = ["stock contiguous", "stock channels-last", "accelerated, speed"]
    found = [
        {"kind": "strangers", "case": case, "input": "1x3", "contender": name, "device": device, "p50": s}
        for name, s in zip(names, seconds, strict=True)
    ]
    for row, bytes_kept in zip(found, (100 * MIB, 100 * MIB, kept * MIB), strict=True):
        row["kept_bytes"] = bytes_kept
    found[-1] |= of_ours
    return found


def test_a_table_has_the_newest_run_and_the_geometric_means() -> None:
    found = run("net", (9, 9, 9), 90) + run("other", (4, 8, 1), 25) + run("net", (2, 1, 1), 100)
    lines = table(newest(found)).splitlines()
    assert lines[2] == "| net 1x3 | 2000 | 1000 | 1000 | 1.00 | 100 -> 100 |"
    assert lines[3] == "| other 1x3 | 4000 | 8000 | 1000 | 4.00 | 100 -> 25 |"
    assert lines[4] == "| geometric mean of 2 | | | | 2.00 | 0.50 of best |"


def test_the_ratio_within_turns_stands_for_that_of_medians() -> None:
    (found,) = runs_of(run("net", (2, 1, 1), 100, speed=1.25))
    assert found.speed == 1.25


def test_ranges_are_by_machine() -> None:
    files = [
        run("net", (2, 1, 1), 100) + run("other", (4, 4, 1), 25),
        run("net", (2, 2, 1), 50) + run("other", (4, 4, 2), 25),
        run("net", (3, 3, 1), 60, device="b"),
    ]
    lines = ranges([newest(file) for file in files]).splitlines()
    assert lines[2] == "| net 1x3 | 1 | 3.00 | 0.60 | 2 | 1.00 to 2.00 | 0.50 to 1.00 |"
    assert lines[3] == "| other 1x3 | 0 |  |  | 2 | 2.00 to 4.00 | 0.25 |"
    assert lines[4] == "| geometric mean of 2 | 1 | 3.00 | 0.60 | 2 | 2.00 | 0.35 to 0.50 |"


@pytest.mark.parametrize("name", ["ranges", "avx2"])
def test_the_page_has_the_tables_of_the_committed_rows(name: str) -> None:
    files = [newest(rows.read([ROOT / "benchmarks/results" / file])) for file in QUIET]
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert shown
    assert shown[1] == {"ranges": ranges(files), "avx2": table(files[-1])}[name]
