"""Bad input ends with one sentence: 200 calls of the harness, and the harness itself on commands that misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastinpaint.cli import COMMANDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc and forks")
CALLS = 120


@pytest.mark.slow
def test_a_sample_of_bad_calls_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "tools.verify.bad_inputs", "--sample", str(CALLS), "--many", "20000"]
    done = subprocess.run([*command, "--results", str(results)], capture_output=True, text=True, timeout=900)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(rows) >= CALLS, done.stderr
    assert {row["command"] for row in rows} == set(COMMANDS)
    assert [row for row in rows if row["faults"]] == []
    assert done.returncode == 0, done.stdout


def test_the_harness_sees_what_is_planted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.verify.planted"], capture_output=True, text=True, timeout=120, check=True
    )
    faults = json.loads(done.stdout)
    assert faults.pop("good") == []
    words = {
        "traceback": "traceback: ValueError: planted",
        "two lines": "2 lines on stderr",
        "nothing said": "0 lines on stderr",
        "no full stop": "no full stop",
        "another beginning": "does not begin with the command",
        "not refused": "was not refused",
        "another code": "exit code 1",
        "a new file": "changed: new: result.json",
        "half-written": "half-written: new: result.mp4.part",
        "memory": "took 0",
        "time": "ran for 1 seconds",
    }
    assert faults.keys() == words.keys()
    for name, word in words.items():
        assert any(word in fault for fault in faults[name]), (name, faults[name])
