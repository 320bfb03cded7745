"""Seconds per step of an ordinary U-Net before and after adding one line: the two scripts beside this file.

    python -m benchmarks.swap.measure [--steps 12] [--rows FILE]

The scripts alternate, twice each, in separate processes. Their losses must agree before a time is printed.
"""

from __future__ import annotations

import argparse
import difflib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from fastinpaint.bench import rows
from fastinpaint.bench.machine import describe
from fastinpaint.bench.measure import Timing

HERE = Path(__file__).parent
SCRIPTS = {"eager": HERE / "unet_before.py", "fastinpaint": HERE / "unet_after.py"}
LINE = re.compile(r"step (\d+)  loss ([\d.]+)  ([\d.]+) s")
AGREE = 1e-3  # losses of the same step, relative


def run(script: Path, steps: int) -> tuple[list[float], list[float]]:
    """Loss and seconds of every step."""
    done = subprocess.run([sys.executable, str(script), str(steps)], capture_output=True, text=True, check=True)
    found = LINE.findall(done.stdout)
    return [float(loss) for _, loss, _ in found], [float(seconds) for _, _, seconds in found]


def main() -> int:
    """Print both times, their ratio and the lines that differ. Returns 1 if the losses disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=Path, help="file that the two rows are appended to")
    args = parser.parse_args()
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in SCRIPTS}
    for _ in range(2):
        for name, script in SCRIPTS.items():
            losses[name], taken = run(script, args.steps)
            seconds[name] += taken[2:]  # the first two warm up
    apart = max(abs(a / b - 1) for a, b in zip(losses["fastinpaint"], losses["eager"], strict=True))
    if not apart < AGREE:
        print(f"swap: the losses are up to {apart:.1e} apart: nothing is reported.", file=sys.stderr)
        return 1
    before, after = (script.read_text().splitlines() for script in SCRIPTS.values())
    print("\n".join(line for line in difflib.unified_diff(before, after, "before", "after", lineterm="", n=0)))
    times = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(f"before {times['eager']:.3f} s a step, after {times['fastinpaint']:.3f} s: "
          f"{times['eager'] / times['fastinpaint']:.2f} times as fast; losses within {apart:.0e}")  # fmt: skip
    if args.rows is not None:
        timings = {name: Timing.of(taken) for name, taken in seconds.items()}
        found = [
            {"case": "swapped U-Net step", "contender": name, "p20": t.p20, "p50": t.p50, "p80": t.p80, "runs": t.runs}
            | {"drift": t.drift, "noisy": t.noisy, "kind": "swap"}
            for name, t in timings.items()
        ]
        rows.append(args.rows, [describe(torch.device("cpu")) | row for row in found])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
