"""Everything that only a GPU can show, in one command, into one folder: ``make gpu-check``.

    python -m benchmarks.gpu_check [--parts build tests sanitizers bench report] [--out build/gpu-check]

Each part runs alone as well, under its own time limit; what a part wrote stays when it is stopped, and the summary is
written anew after every part. Without a CUDA device nothing is run, and the command says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_DEVICE = 3


@dataclass
class Step:
    """One command of a part: what it is called, how long it may take, and what came of it."""

    part: str
    name: str
    command: list[str]
    limit: int
    status: str = "not run"
    seconds: float = 0.0


def steps(out: Path) -> list[Step]:
    """All commands in order. The limits only stop what hangs: how long the whole takes has not been seen yet."""
    python, rows = sys.executable, str(out / "rows.jsonl")
    fuzz = [python, "-m", "fastinpaint.testing.fuzz", "--device", "cuda"]
    found = [
        Step("build", "build", [python, "setup.py", "build_ext", "--inplace"], 240),
        Step("build", "info", [python, "-m", "fastinpaint", "info"], 30),
        Step("tests", "cuda", [python, "-m", "pytest", "-q", "tests/cuda", "-k", "not emulated and not sanitiz"], 120),
        Step("tests", "triton", [python, "-m", "pytest", "-q", "tests/triton"], 180),
        Step("tests", "system", [python, "-m", "pytest", "-q", "tests/gpu"], 120),
    ]
    found += [
        Step("tests", f"fuzz {b}", [*fuzz, "--backend", b, "--cases", "60"], 90) for b in ("cuda", "triton", "library")
    ]
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        checked = [sanitizer, "--tool", tool, "--error-exitcode", "9", *fuzz, "--backend", "cuda", "--cases", "6"]
        found.append(Step("sanitizers", tool, checked, 90))
    pytest = [python, "-m", "pytest", "-q", "benchmarks", "--benchmark-only", "--device", "cuda", "--rows", rows]
    found += [
        Step("bench", "step", [*pytest, "-k", "step or inference"], 240),
        Step("bench", "ops", [*pytest, "-k", "activation or masked_l1"], 60),
        Step("bench", "layers", [*pytest, "-k", "layer", "--rounds-seconds", "0.2"], 180),
        Step("report", "report", [python, "-m", "benchmarks.report", rows, "--out", str(out / "report")], 60),
    ]
    return found


def run(step: Step, log: Path) -> None:
    """Run one command; its output goes to the log as it comes."""
    start = time.perf_counter()
    with log.open("w") as file:
        try:
            done = subprocess.run(
                step.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=step.limit, check=False,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            step.status = "ok" if done.returncode == 0 else f"failed with status {done.returncode}"
        except subprocess.TimeoutExpired:
            step.status = f"stopped after {step.limit} s"
        except OSError as error:
            step.status = f"cannot start: {error.strerror}"
    step.seconds = round(time.perf_counter() - start, 1)


def write_summary(out: Path, done: list[Step]) -> None:
    """summary.json, beside and renamed."""
    beside = out / ".summary.json"
    beside.write_text(json.dumps([asdict(step) for step in done], indent=1) + "\n")
    beside.replace(out / "summary.json")


def main() -> int:
    """Run the parts; 0 where all went well, 1 where one did not, 3 where there is no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("build", "tests", "sanitizers", "bench", "report")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device here; nothing was run on a GPU.\n0 passed, 0 failed")
        return NO_DEVICE
    args.out.mkdir(parents=True, exist_ok=True)
    done: list[Step] = []
    for step in steps(args.out.resolve()):
        if step.part not in args.parts:
            continue
        log = args.out / f"{step.part}-{step.name.replace(' ', '-')}.log"
        run(step, log)
        done.append(step)
        write_summary(args.out, done)
        last = ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or [""])[-1]
        print(f"{step.part:<11}{step.name:<15}{step.seconds:>7.1f} s  {step.status:<24}{last[:120]}", flush=True)
    good = sum(step.status == "ok" for step in done)
    print(f"logs and rows in {args.out}\n{good} passed, {len(done) - good} failed")
    return 0 if good == len(done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
