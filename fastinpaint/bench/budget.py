"""Finds the largest size that trains within a memory budget, by training in child processes."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastinpaint.bench.contenders import Workload
from fastinpaint.errors import UserError

# By axis: how a step's memory grows with it, the unit of its sizes, and the first pair of sizes to try.
GROWTH: dict[str, Callable[[int], float]] = {"frames": float, "size": lambda pixels: float(pixels**2)}
UNIT = {"frames": 1, "size": 16}
FIRST = {"frames": (8, 16), "size": (64, 96)}
MOST = 4096


def run_child(contender: str, workload: Workload, steps: int = 2) -> dict[str, Any] | None:
    """Train a few steps in a new process; returns peak bytes and seconds per step, or None if out of memory."""
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


@dataclass
class Search:
    """Searches the largest size whose peak memory is within a budget. Every decision rests on a run of that size.

    Attributes:
        peak: peak bytes at a size, infinite if out of memory. Must not fall with the size.
        budget: in bytes.
        growth: a function of the size in which the peak is nearly affine. It only guides the search.
        unit: sizes are multiples of it.
        tried: the peak of every size that was run.
    """

    peak: Callable[[int], float]
    budget: float
    growth: Callable[[int], float] = float
    unit: int = 1
    most: int = MOST
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def good(self) -> int:
        """The largest size that fitted so far, or 0."""
        return max((size for size, peak in self.tried.items() if peak <= self.budget), default=0)

    @property
    def bad(self) -> int:
        """The smallest size that did not fit so far, or the first one above the maximum."""
        return min((size for size, peak in self.tried.items() if peak > self.budget), default=self.most + self.unit)

    def run(self, first: tuple[int, ...]) -> int:
        """The largest size that fits, or 0. It and the next size have both been run."""
        for size in first:
            if self.good < size < self.bad:
                self.tried[size] = self.peak(size)
        while self.bad - self.good > self.unit:
            size = min(max(self._guess(), self.good + self.unit), self.bad - self.unit)
            self.tried[size] = self.peak(size)
        return self.good

    def _guess(self) -> int:
        """The size where the line through the two runs nearest to the budget meets it, else the midpoint."""
        known = sorted(
            (item for item in self.tried.items() if math.isfinite(item[1])), key=lambda item: abs(item[1] - self.budget)
        )
        if len(known) >= 2 and (rise := known[0][1] - known[1][1]) != 0:
            (near, peak), (far, _) = known[:2]
            slope = rise / (self.growth(near) - self.growth(far))
            wanted = self.growth(near) + (self.budget - peak) / slope if slope > 0 else -1.0
            sizes = range(self.good + self.unit, self.bad, self.unit)
            return max((size for size in sizes if self.growth(size) <= wanted), default=self.good + self.unit)
        return self.good + (self.bad - self.good) // (2 * self.unit) * self.unit


def largest_within(
    contender: str, workload: Workload, axis: str, budget_bytes: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """The largest ``axis`` ("frames" or "size") of the workload, or the smallest ("r"), that trains within the budget.

    Returns:
        ``value``, 0 if nothing fits; ``peaks``, the peak bytes of every size that was run (None: out of memory).
    """

    def peak(value: int) -> float:
        sizes: dict[str, Any] = {axis: value}
        row = run_child(contender, dataclasses.replace(workload, **sizes))
        found = math.inf if row is None else float(row["peak_bytes"])
        log(f"{contender}: {axis} {value}: {'out of memory' if row is None else f'{found / 2**30:.3f} GiB'}")
        return found

    if axis == "r":
        tried: dict[int, float] = {}
        for r in (1, 2, 4):
            tried[r] = peak(r)
            if tried[r] <= budget_bytes:
                break
        value = next((r for r, bytes_ in tried.items() if bytes_ <= budget_bytes), 0)
    else:
        search = Search(peak, budget_bytes, GROWTH[axis], UNIT[axis])
        value, tried = search.run(FIRST[axis]), search.tried
    return {"value": value, "peaks": {str(k): v if math.isfinite(v) else None for k, v in sorted(tried.items())}}
