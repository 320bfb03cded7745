"""The largest size that trains within a memory budget, found by really training it in a child process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from fastinpaint.bench.contenders import Workload
from fastinpaint.errors import UserError


def run_child(contender: str, workload: Workload, steps: int = 2) -> dict[str, Any] | None:
    """Train a few steps in a fresh process; its row (peak bytes, seconds a step), or None where memory ran out."""
    request = json.dumps({"contender": contender, "workload": dataclasses.asdict(workload), "steps": steps})
    child = subprocess.run(
        [sys.executable, "-m", "fastinpaint.bench.child", request], capture_output=True, text=True, check=False
    )
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    out_of_memory = child.returncode in (-9, 137) or "out of memory" in child.stderr or "can't allocate" in child.stderr
    if out_of_memory:
        return None
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(f"bench: {contender} at {workload} failed with status {child.returncode}: {last}")


def largest(fits: Callable[[int], bool], start: int, unit: int, limit: int) -> int:
    """The largest multiple of ``unit`` up to ``limit`` that fits, by doubling and bisection; 0 where none does.

    ``fits`` must be monotone: what fits at a size fits at every smaller one.
    """
    good, probe = 0, max(start - start % unit, unit)
    while probe <= limit and fits(probe):
        good, probe = probe, probe * 2
    bad = min(probe, limit + unit)
    while bad - good > unit:
        middle = good + (bad - good) // (2 * unit) * unit
        middle = middle if middle > good else good + unit
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def within(contender: str, workload: Workload, axis: str, budget_bytes: int, log: Callable[[str], None]) -> int:
    """The largest ``axis`` of the workload ("frames" or "size"), or the smallest ("r"), that trains in the budget."""

    def fits(value: int) -> bool:
        sizes: dict[str, Any] = {axis: value}
        row = run_child(contender, dataclasses.replace(workload, **sizes))
        peak = None if row is None else row["peak_bytes"]
        verdict = "out of memory" if peak is None else f"{peak / 2**30:.2f} GiB"
        log(f"{contender}: {axis} {value}: {verdict}")
        return peak is not None and peak <= budget_bytes

    if axis == "r":
        return next((r for r in (1, 2, 4) if fits(r)), 0)
    unit = {"frames": 1, "size": 16}[axis]
    return largest(fits, getattr(workload, axis), unit, {"frames": 4096, "size": 4096}[axis])
