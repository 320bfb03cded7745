"""The search for the largest sizes within a budget, with simulated memory, and the exit of child processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastinpaint.bench import budget
from fastinpaint.bench.contenders import Workload
from fastinpaint.cli import bench
from fastinpaint.errors import UserError

GIB = 1 << 30
FACTOR = {"eager channels-last": 2.0, "fastinpaint": 1.0, "fastinpaint low": 0.5}


def peak(contender: str, workload: Workload) -> int:
    """Simulated memory: half a GiB, plus terms that grow with F and the pixels of CombCN and 3DCN."""
    pixels = workload.frames * workload.size**2
    return int(GIB / 2 + FACTOR[contender] * pixels * (1500 + 2000 / workload.r**2))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Workload]]:
    """The sizes that were run. Beyond 3 GiB memory runs out."""
    found: list[tuple[str, Workload]] = []

    def run_child(contender: str, workload: Workload, steps: int = 2) -> dict | None:
        found.append((contender, workload))
        taken = peak(contender, workload)
        return None if taken > 3 * GIB else {"peak_bytes": taken}

    monkeypatch.setattr(budget, "run_child", run_child)
    return found


@pytest.mark.parametrize("contender", FACTOR)
@pytest.mark.parametrize("axis", ["frames", "size"])
@pytest.mark.parametrize("gib", [0.4, 0.7, 1.0, 2.9])
def test_what_is_found_fits_and_the_next_does_not(axis: str, contender: str, gib: float, ran: list) -> None:
    workload, limit, unit = Workload(frames=8, size=128), int(gib * GIB), budget.UNIT[axis]
    found = budget.largest_within(contender, workload, axis, limit, lambda line: None)
    sizes = {getattr(run, axis) for _, run in ran}
    assert {int(size) for size in found["peaks"]} == sizes
    assert all(size % unit == 0 for size in sizes)
    value = found["value"]
    assert {value, value + unit} - {0} <= sizes
    for size in sizes:
        fits = peak(contender, Workload(**{"frames": 8, "size": 128} | {axis: size})) <= limit
        assert fits == (size <= value)
    assert all(run == Workload(**{"frames": 8, "size": 128} | {axis: getattr(run, axis)}) for _, run in ran)
    assert len(ran) == len(sizes) <= 9


def test_a_size_that_ran_out_of_memory_has_no_peak(ran: list) -> None:
    found = budget.largest_within("fastinpaint", Workload(size=128), "frames", 100 * GIB, lambda line: None)
    assert found["value"] == max(int(size) for size, taken in found["peaks"].items() if taken is not None)
    assert found["peaks"][str(found["value"] + 1)] is None


@pytest.mark.parametrize(("gib", "smallest"), [(2.9, 1), (1.0, 2), (0.9, 4), (0.6, 0)])
def test_the_smallest_r_is_the_first_that_fits(gib: float, smallest: int, ran: list) -> None:
    found = budget.largest_within("fastinpaint", Workload(frames=16, size=128), "r", int(gib * GIB), lambda line: None)
    assert found["value"] == smallest
    assert [run.r for _, run in ran] == [r for r in (1, 2, 4) if r <= (smallest or 4)]


def test_the_command_says_each_answer_beside_the_rivals(ran: list, capsys: pytest.CaptureFixture) -> None:
    rows = list(bench.largest_sizes(Workload(frames=8, size=128), None, ["frames", "r"], 1.0))
    assert [row["case"] for row in rows] == ["largest frames"] * 3 + ["largest r"] * 3
    frames = {row["contender"]: row["value"] for row in rows[:3]}
    printed = capsys.readouterr().out
    for name in ("fastinpaint", "fastinpaint low"):
        ratio = frames[name] / frames["eager channels-last"]
        assert f"largest number of frames in 1 GB, {name}: {frames[name]}  ({ratio:.2f}x)" in printed
    assert printed.count("x)") == 2  # the smallest r is no ratio


@pytest.mark.parametrize(
    ("program", "ends"),
    [
        ("print('talk'); print('{\"peak_bytes\": 7}')", {"peak_bytes": 7}),
        ("import os; os.kill(os.getpid(), 9)", None),
        ("raise MemoryError('out of memory: the system has no 9 bytes for a map.')", None),
        ('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes.")', None),
        ("raise ValueError('a mistake')", "failed with status 1: ValueError: a mistake"),
    ],
    ids=["row", "killed", "no map", "no tensor", "mistake"],
)
def test_how_a_child_ends(program: str, ends: dict | str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = subprocess.run
    monkeypatch.setattr(budget.subprocess, "run", lambda _, **more: right([sys.executable, "-c", program], **more))
    if isinstance(ends, str):
        with pytest.raises(UserError, match=ends):
            budget.run_child("fastinpaint", Workload())
    else:
        assert budget.run_child("fastinpaint", Workload()) == ends
