"""Runs everything that needs a GPU, in one command and into one folder: ``make gpu-check``.

    python -m benchmarks.gpu_check [--parts build tests sanitizers tune bench report] [--out build/gpu-check]
                                   [--seconds 560] [--anyway]

Parts can also run alone. Everything ends within ``--seconds``: if time runs short, the least important steps are
skipped or stopped first. The report is always written. Results of stopped parts are kept. The summary is updated after
every command and keeps the results of parts that are not run again. Without a CUDA device nothing runs, unless
``--anyway`` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from benchmarks.gpu_plan import PARTS, Step, plan
from fastinpaint.files import replace_text

ROOT = Path(__file__).parents[1]
NO_DEVICE = 3
GRACE = 6  # seconds between SIGINT and SIGKILL


class Stopped(Exception):
    """The check was asked to stop."""


@dataclass
class Running:
    """A started command, its log and its deadline."""

    step: Step
    process: subprocess.Popen[bytes]
    start: float
    deadline: float
    asked: bool = field(default=False)

    def look(self) -> bool:
        """Whether the command has ended; stops it if it is late. Its step then holds the outcome."""
        status, now = self.process.poll(), time.monotonic()
        if status is None:
            if now > self.deadline and not self.asked:
                self.send(signal.SIGINT)  # pytest then still prints its results
                self.asked = True
            elif now > self.deadline + GRACE:
                self.send(signal.SIGKILL)
            return False
        self.step.seconds = round(now - self.start, 1)
        late = f"stopped after {self.step.seconds:.0f} s"
        self.step.status = late if self.asked else "ok" if status == 0 else f"failed with status {status}"
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Check:
    """Runs groups of steps within a time limit and updates the summary."""

    def __init__(self, out: Path, seconds: float, keep: Callable[[str], bool] = lambda part: False) -> None:
        """Args:
        keep: whether a part's earlier steps stay in the summary.
        """
        self.out, self.end, self.done = out, time.monotonic() + seconds, list[Step]()
        self.summary = out / "summary.json"
        before = json.loads(self.summary.read_text()) if self.summary.exists() else []
        self.before = [step for step in before if keep(step["part"])]
        self.running: list[Running] = []

    def log(self, step: Step) -> Path:
        """The log file of a step."""
        return self.out / f"{step.part}-{step.name.replace(' ', '-')}.log"

    def run(self, group: list[Step], reserve: float) -> None:
        """Run the steps of a group in parallel, leaving ``reserve`` seconds for more important steps."""
        left = self.end - time.monotonic() - reserve
        for step in group:
            if left < step.least:
                self.note(step, f"skipped: {max(left, 0):.0f} s left for it, {step.least} needed")
                continue
            self.start(step, min(step.limit, left))
        while self.running:
            over = [one for one in self.running if one.look()]
            self.running = [one for one in self.running if one not in over]
            for one in over:
                self.note(one.step, one.step.status)
            time.sleep(0.1)

    def start(self, step: Step, seconds: float) -> None:
        """Start a step with a time limit. A step that cannot start is noted."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | step.environment
        with self.log(step).open("w") as file:
            try:
                process = subprocess.Popen(
                    step.command,
                    cwd=ROOT,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                self.note(step, f"cannot start: {error.strerror}")
                return
        now = time.monotonic()
        self.running.append(Running(step, process, now, now + seconds))

    def note(self, step: Step, status: str) -> None:
        """Print the outcome of a step and write the summary atomically."""
        step.status = status
        log = self.log(step)
        text = log.read_text(errors="replace") if log.exists() else ""
        step.last = ([line for line in text.splitlines() if line.strip()] or [""])[-1][:160]
        self.done.append(step)
        replace_text(self.summary, json.dumps(self.before + [asdict(step) for step in self.done], indent=1) + "\n")
        print(f"{step.part:<11}{step.name:<15}{step.seconds:>7.1f} s  {status:<24}{step.last[:100]}", flush=True)

    def stop(self) -> None:
        """Stop all running steps. Their output is kept."""
        for one in self.running:
            one.send(signal.SIGKILL)
            one.process.wait()
            one.step.seconds = round(time.monotonic() - one.start, 1)
            self.note(one.step, "stopped with the whole")
        self.running = []


def reserves(groups: list[list[Step]]) -> Iterator[tuple[list[Step], float]]:
    """Yield each group with the seconds to reserve for more important later groups."""
    for i, group in enumerate(groups):
        yield group, sum(g[0].least for g in groups[i + 1 :] if g[0].rank < group[0].rank)


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """The signal handler: raise `Stopped`."""
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Run the parts. Returns 0 if all passed, 1 if one did not, 3 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check")
    parser.add_argument("--seconds", type=float, default=560.0, help="all parts together (default 560)")
    parser.add_argument("--anyway", action="store_true", help="run without a CUDA device too: what needs one fails")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and not args.anyway:
        print("gpu-check: torch finds no CUDA device here; nothing was run on a GPU.\n0 passed, 0 failed")
        return NO_DEVICE
    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args.out.resolve(), args.seconds, keep=lambda part: part not in args.parts)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, raise_stopped)
    groups = [group for group in plan(check.out) if group[0].part in args.parts]
    try:
        for group, reserve in reserves(groups):
            check.run(group, reserve)
    except Stopped as stopped:
        check.stop()
        print(f"stopped by {stopped}; `--parts report` makes the report of what there is")
    good = sum(step.status == "ok" for step in check.done)
    every = sum(len(group) for group in groups)
    print(f"logs and rows in {args.out}\n{good} passed, {every - good} failed, skipped or stopped")
    return 0 if good == every else 1


if __name__ == "__main__":
    raise SystemExit(main())
