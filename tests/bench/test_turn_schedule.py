"""Turns of benchmarks: when a case gets another one, which one counts, and that a run writes one row per case."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.turn_schedule import TurnSchedule
from fastinpaint.bench import rows
from fastinpaint.bench.measure import Timing

ROOT = Path(__file__).parents[2]
LATER = time.monotonic() + 1e6


def timing(p50: float) -> Timing:
    return Timing(0.9 * p50, p50, 1.1 * p50, 8, 0.0)


def schedule(**turns: list[float]) -> TurnSchedule:
    """A schedule of one case, with these medians of each contender."""
    made = TurnSchedule(2, 4, LATER)
    for contender, medians in turns.items():
        for p50 in medians:
            made.add("case", contender, timing(p50))
    return made


def test_the_fastest_turn_counts_and_the_next_one_says_whether_it_repeats():
    one, steady, apart = (Timing.fastest([timing(t) for t in turns]) for turns in ([3.0], [5.0, 2.0, 2.08], [2.0, 2.2]))
    assert (one.p50, one.noisy) == (3.0, False)
    assert (steady.p20, steady.p50, steady.noisy) == (1.8, 2.0, False)
    assert apart.noisy
    assert apart.drift == pytest.approx(0.1)


def test_a_case_comes_round_until_all_its_contenders_repeat():
    assert schedule().wanted("case", 0)
    assert schedule(a=[1.0], b=[1.0]).wanted("case", 1)  # the least
    assert not schedule(a=[1.0, 1.0], b=[2.0, 2.05]).wanted("case", 2)
    unsteady = schedule(a=[1.0, 1.0], b=[2.0, 2.2])
    assert unsteady.wanted("case", 2)
    unsteady.add("case", "a", timing(0.8))  # one contender's result does not change the answer for another
    assert unsteady.wanted("case", 2)
    assert unsteady.wanted("another", 0)


def test_a_case_that_was_left_out_stays_out():
    assert not schedule().wanted("case", 1)
    assert not schedule(a=[1.0, 1.2]).wanted("case", 3)  # there was no third turn


def test_when_the_time_is_up_only_first_turns_are_left():
    late = schedule(a=[1.0])
    late.until = time.monotonic() - 1
    assert not late.wanted("case", 1)
    assert late.wanted("another", 0)


def test_a_run_leaves_one_row_of_each(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/test_ops.py",
        "--benchmark-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += [
        "-k",
        "norm_relu and not compile",
        "--frames",
        "1",
        "--rounds-seconds",
        "0",
        "--turns",
        "2",
        "3",
    ]
    command += ["--rows", str(tmp_path / "rows")]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows.read([tmp_path / "rows"])
    names = [(row["case"], row["contender"]) for row in found]
    assert len(names) == len(set(names)) == 2 + 4
    timed = [row for row in found if "p50" in row]
    assert {row["case"] for row in timed} == {"norm_relu forward", "norm_relu backward"}
    for row in timed:
        assert row["turns"] in (2, 3)
        assert row["noisy"] == (row["drift"] > 0.05)
        assert row["peak_bytes"] is not None
        assert row["runs"] >= 6
