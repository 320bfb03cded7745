"""Measures every CPU figure of the README and docs on a quiet machine: ``make figures``.

    python -m benchmarks.figures [PART ...] [--again] [--threads N]

Parts run in the order below, each in a separate process. Finished parts are not run again (except with ``--again``), so
a stopped run can be resumed. Rows go to ``benchmarks/results``, logs to ``build/figures``, pictures to
``docs/pictures``. The estimated time is three quarters of an hour on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pictures import newest, sizes
from fastinpaint.bench import rows
from fastinpaint.bench.contenders import OURS, is_ours
from fastinpaint.bench.plots import label

ROOT = Path(__file__).parents[1]
RESULTS, LOGS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "build" / "figures", ROOT / "docs" / "pictures"
SHOWN = ("step_time.png", "frames_memory.png", "convergence.png")
STEP_CONTENDERS = ("eager", "eager channels-last", "compile", *OURS)


def parts(date: str) -> dict[str, list[list[str]]]:
    """The commands of each part, most important first."""
    python = [sys.executable, "-m"]
    suite, repeat = (str(RESULTS / f"{date}-{name}.jsonl") for name in ("suite", "suite-repeat"))
    pytest = [*python, "pytest", "benchmarks", "--benchmark-only", "-q", "--benchmark-columns", "median"]
    step = [*python, "fastinpaint", "bench", "--out", str(RESULTS / f"{date}-steps.jsonl")]
    step += ["--contenders", *STEP_CONTENDERS]
    budget = [*python, "fastinpaint", "bench", "--out", str(RESULTS / f"{date}-budgets.jsonl"), "--max-frames", "4"]
    converge = [*python, "fastinpaint", "bench", "--out", str(RESULTS / f"{date}-convergence.jsonl"), "--convergence"]
    return {
        "step8": [[*step, "--frames", "8", "--seconds", "12"]],
        "step32": [[*step, "--frames", "32", "--seconds", "20"]],
        "suite": [[*pytest, "--rows", suite]],
        "repeat": [[*pytest, "--rows", repeat], [*python, "benchmarks.compare", suite, repeat, "--mark"]],
        "swap": [[*python, "benchmarks.swap.measure", "--rows", str(RESULTS / f"{date}-swap.jsonl")]],
        "layers": [[*python, "benchmarks.layers", "--frames", "8"]],
        "frames": [[*budget, "--axes", "frames"]],
        "report": [[*python, "benchmarks.report", "--out", str(ROOT / "build" / "report")]],
        # these run only by name: they measure no times, so the machine need not be quiet
        "sizes": [[*budget, "--axes", "size", "r"]],
        "convergence": [converge],
    }


QUIET = ("step8", "step32", "suite", "repeat", "swap", "layers", "frames", "report")


def run(name: str, commands: list[list[str]], environment: dict[str, str]) -> bool:
    """Run a part with its output in its log. Returns whether all commands succeeded."""
    log, start, good = LOGS / f"{name}.log", time.monotonic(), True
    with log.open("w") as file:
        for command in commands:
            done = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
            )
            good = good and done.returncode == 0
    last = ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or [""])[-1]
    print(f"{name:<12}{time.monotonic() - start:>6.0f} s  {'ok' if good else 'FAILED':<8}{last[:90]}", flush=True)
    return good


def show() -> None:
    """Copy the pictures, and print the README's table and other figures that it quotes."""
    for name in SHOWN:
        if (picture := ROOT / "build" / "report" / name).exists():
            shutil.copy(picture, PICTURES / name)
    found = newest(rows.read(sorted(RESULTS.glob("*.jsonl"))))
    for frames in (8, 32):
        steps = {row["contender"]: row for row in found if row["case"] == "step" and sizes(row)[0] == frames}
        rival = min((row["p50"] for who, row in steps.items() if not is_ours(who)), default=float("nan"))
        for who, row in steps.items():
            memory = f"kept {row['kept_bytes'] / 2**20:6.0f} MiB, peak {(row['peak_bytes'] or 0) / 2**30:5.2f} GiB"
            print(f"F={frames:<4}{label(who):<28}{row['p50']:8.3f} s  {rival / row['p50']:5.2f}x  {memory}"
                  f"{'  noisy' if row['noisy'] else ''}")  # fmt: skip
    for row in found:
        if row["case"].startswith("largest"):
            print(f"{row['case']} in {row['budget_gb']:g} GB: {label(row['contender'])} {row['value']}")
        elif row["case"] == "swapped U-Net step":
            print(f"{row['case']}: {label(row['contender'])} {row['p50']:.3f} s")
    noisy = sum(bool(row.get("noisy")) for row in found)
    print(f"{len(found)} rows, {noisy} noisy; logs in {LOGS.relative_to(ROOT)}, the table of layers in its layers.log")


def main() -> int:
    """Run the parts. Returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts(''))}; none: {', '.join(QUIET)}")
    parser.add_argument("--again", action="store_true", help="run finished parts too")
    parser.add_argument("--threads", type=int, help="of every process (default: torch's own choice)")
    args = parser.parse_args()
    known = parts(datetime.date.today().isoformat())
    if unknown := [name for name in args.parts if name not in known]:
        parser.error(f"unknown part {unknown[0]!r}; known: {', '.join(known)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    # ignore this machine's remembered measurements: the figures are those of a first run
    environment = os.environ | {"FASTINPAINT_TUNE": "0"}
    environment |= {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
    good = True
    for name in args.parts or QUIET:
        done = LOGS / f"{name}.done"
        if done.exists() and not args.again and name != "report":
            print(f"{name:<12} finished before")
        elif run(name, known[name], environment):
            done.touch()
        else:
            good = False
    show()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
