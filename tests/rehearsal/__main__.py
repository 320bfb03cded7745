"""Runs ``make gpu-check`` on a fake GPU, to test its Python code. It shows nothing about speed or correctness.

    python -m tests.rehearsal [--full] [--only STEP ...] ARGUMENTS OF benchmarks.gpu_check

It runs the steps of `benchmarks.gpu_plan` one after another in forks of this process, with their own arguments except
for sizes: two small frames, few channels, and the first case of each test (``--full``: all). CUDA kernels are emulated,
Triton's interpreted. Compilers are scripts that create the requested file. Commands for NVIDIA's sanitizers run without
them. A rehearsal is neither an emulated run nor a run on a GPU, and leaves no results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.rehearsal import forked
from tests.rehearsal.forked import Forked
from tests.rehearsal.install import install, shrink

MEMORY = "0.003"  # GB
TINY = ["--frames", "2", "--size", "16", "--width", "0.03125"]
# Steps that train whole networks, or interpret, for over a minute each.
ONLY_FULL = {"system", "step", "step others", "compile", "max-autotune", "beyond", "tune"}
ONLY_FULL |= {"step graphs", "compile graph", "largest"}
ONLY_FULL |= {"triton", "fuzz triton", "step triton"}
ONLY_FULL |= {"racecheck", "synccheck", "initcheck"}  # without the sanitizer they equal memcheck


def changed(command: list[str], full: bool) -> list[str]:
    """A command of the plan without its interpreter, at a small size. Prepares this process for it."""
    if command[:2] == ["-m", "pytest"]:
        return _pytest(command, full)
    if "tune" in command:
        shrink()
        _one_round(full)
        return [*command, *TINY]
    if "--max-frames" in command:
        return _largest(command)
    if "--cases" in command and not full:
        return [*command, "--cases", "12"]
    return command


def _pytest(command: list[str], full: bool) -> list[str]:
    from tests.rehearsal import kernels, nvcc
    from tools.inspect import sass

    if "-n" in command:
        at = command.index("-n")
        command = command[:at] + command[at + 4 :]  # workers would be other processes
    if "tests/gpu" in command:
        sass.nvcc = lambda: str(nvcc.script())
        command = [*command, "-p", "tests.rehearsal.short"]
        kernels.few_tiles()
    if "benchmarks" in command:
        shrink()
        command = [*command, "--rounds-seconds", "0", "--frames", "2", "-p", "tests.rehearsal.rounds"]
    if full:
        return command
    return [part for given in command for part in _for_a_gpu_alone(given)] + ["-p", "tests.rehearsal.few"]


def _for_a_gpu_alone(given: str) -> list[str]:
    """The GPU-only tests in a folder of kernel tests; the others also run emulated or interpreted."""
    if not given.startswith("tests/ops/"):
        return [given]
    return [f"{given}/test_gpu.py"] if given.count("/") == 2 else []


def _largest(command: list[str]) -> list[str]:
    """The search for the most frames, at a size and within a memory that end it after a few trainings."""
    from fastinpaint.bench import budget

    shrink()
    budget.subprocess = type("", (), {"run": staticmethod(forked.run)})  # type: ignore[assignment]
    at = command.index("--max-frames") + 1
    command = [*command[:at], MEMORY, *command[at + 1 :]]
    return [*command, *TINY]


def _one_round(triton: bool) -> None:
    """Run each candidate once for a measurement, and leave out Triton's if asked: interpreting takes minutes."""
    from fastinpaint.ops.dispatch import autotune, registry

    autotune.ROUNDS = autotune.REPEATS = 1
    if not triton:
        registry.AUTO["cuda"] = tuple(row for row in registry.AUTO["cuda"] if row[0] != "triton")


def main() -> int:
    """Run the rehearsal; returns gpu-check's status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", help="names of steps")
    own, others = parser.parse_known_args()
    full = own.full
    sys.argv = ["gpu-check", *others]
    install()
    import matplotlib.figure  # noqa: F401 - imported once for all steps
    import pytest  # noqa: F401

    from benchmarks import gpu_check
    from benchmarks.gpu_plan import Step
    from fastinpaint.cli import bench, info, tune  # noqa: F401

    def unhurried(step: Step) -> Step:
        step.limit, step.least = 3600, 0  # the plan's are a GPU's
        step.command = step.command[step.command.index(sys.executable) :]  # without the sanitizer
        return step

    Forked.change = staticmethod(lambda command: changed(command, full))
    gpu_check.subprocess = type("", (), {"Popen": Forked, "STDOUT": subprocess.STDOUT})  # type: ignore[assignment]
    plan = gpu_check.plan
    gpu_check.plan = lambda out: [
        [unhurried(step)]
        for group in plan(out)
        for step in group
        if (step.name in own.only if own.only else full or step.name not in ONLY_FULL)
    ]
    return gpu_check.main()


if __name__ == "__main__":
    raise SystemExit(main())
