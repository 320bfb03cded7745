"""``make check``: lint, types, and the tests of what changed.

    python -m tools.verify.check [--base REVISION] [--seconds 110] [--list]

Git tells what changed since the base, including uncommitted changes. The base is where the branch left ``origin/main``,
or HEAD if there is no such branch. Tests mirror the sources (`mirror_of`); a module without a mirror is tested by the
test files that import it. Small test files run first, until the time is over, without those marked slow. Tests that did
not run are listed; `make test` runs everything.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALWAYS = "tests/test_layering.py"
INTERPRETED = ("triton", "interpreter")  # folders whose tests need Triton's interpreter, in a separate process
# The test folder of a top folder, below tests.
FOLDERS: dict[str, list[str]] = {
    "fastinpaint": [], "csrc": ["ops"], "tools": ["tools"], "benchmarks": ["bench"], "docs": ["docs"],
    "examples": ["docs"],
}  # fmt: skip
RENAMED = {"acceleration": "accelerate"}  # rooms whose tests have another name
NOTHING_COLLECTED = 5  # pytest's exit status
LEAST = 5.0  # with fewer seconds left pytest is not started


def changed(base: str | None) -> list[str]:
    """The files that differ from the base, and untracked files."""
    if base is None:
        main = _git("branch", "--remotes", "--list", "origin/main")
        base = _git("merge-base", "HEAD", "origin/main")[0] if main else "HEAD"
    return sorted({*_git("diff", "--name-only", base), *_git("ls-files", "--others", "--exclude-standard")})


def mirror_of(path: str) -> str | None:
    """The test file, or else the test folder, that mirrors a file of the repository, or None.

    ``fastinpaint/ops/conv_block/cpu/thin.py`` and ``csrc/conv_block/cpu/thin.cpp`` are mirrored by
    ``tests/ops/conv_block/cpu/test_thin.py``. If there is no such file, the closest folder is the mirror:
    ``tests/ops/conv_block/cpu``. A test mirrors itself; a test helper stands for its folder.
    """
    top, *parts = Path(path).with_suffix("").parts
    if top == "tests":
        at = Path(path) if Path(path).name.startswith("test_") else Path(path).parent
        return at.as_posix() if (ROOT / at).exists() and at.as_posix() != "tests" else None
    if top not in FOLDERS:
        return None
    parts = [*FOLDERS[top], *(RENAMED.get(part, part) for part in parts)]
    while parts:
        mirror = Path("tests", *parts)
        test = mirror.with_name(f"test_{mirror.name}.py")
        if (ROOT / test).is_file():
            return test.as_posix()
        if (ROOT / mirror).is_dir() and mirror.as_posix() != "tests/ops":
            return mirror.as_posix()
        parts = parts[:-1]
    return None


def importers_of(path: str) -> list[str]:
    """The test files that import a module of the package."""
    folder, _, name = path.removesuffix(".py").replace("/", ".").rpartition(".")
    line = re.compile(
        rf"^ *(from {re.escape(folder)} import .*\b{name}\b|(from|import) {re.escape(folder)}\.{name}\b)", re.M
    )
    return [test.relative_to(ROOT).as_posix() for test in _files(ROOT / "tests") if line.search(test.read_text())]


def selected(paths: Iterable[str]) -> list[str]:
    """The tests of these files, single files first and large folders last. No entry contains another."""
    found: set[str] = set()
    for path in paths:
        mirror = mirror_of(path)
        if mirror is not None:
            found.add(mirror)
        elif path.startswith("fastinpaint/") and path.endswith(".py"):
            found.update(importers_of(path))
    found = {test for test in found if not any(Path(other) in Path(test).parents for other in found)}
    return [ALWAYS, *sorted(found - {ALWAYS}, key=lambda test: (len(_files(ROOT / test)), test))]


def _files(test: Path) -> list[Path]:
    return [test] if test.is_file() else sorted(test.rglob("test_*.py"))


def is_interpreted(test: Path) -> bool:
    """Whether this test file needs Triton's interpreter."""
    return any(part in INTERPRETED for part in test.parts)


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def _pytest(files: Sequence[str], interpreted: bool, until: float) -> str | None:
    """Run these test files until the time is over. Returns "tests" if any failed, else None."""
    left = until - time.monotonic()
    if not files:
        return None
    if left < LEAST:
        print(f"no time was left for {len(files)} files of tests: {' '.join(files)}")
        return None
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not gpu", *files]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        status = process.wait(left)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        print("stopped: the time is over. What ran had passed; `make test` runs the rest.")
        return None
    return None if status in (0, NOTHING_COLLECTED) else "tests"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify.check", description=__doc__.partition("\n")[0])
    parser.add_argument("--base", help="what to compare with, instead of where the branch left origin/main")
    parser.add_argument("--seconds", type=float, default=110, help="when to stop (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the tests and run nothing")
    arguments = parser.parse_args(argv)
    until = time.monotonic() + arguments.seconds
    tests = selected(changed(arguments.base))
    if arguments.list:
        print("\n".join(tests))
        return 0
    files = [path.relative_to(ROOT) for test in tests for path in _files(ROOT / test)]
    types = subprocess.Popen([sys.executable, "-m", "mypy"], cwd=ROOT)  # in parallel, on the other core
    wrong = [
        name
        for name, command in {"ruff": ["check", "."], "the format": ["format", "--check", "."]}.items()
        if subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, check=False).returncode
    ]
    for interpreted in (False, True):
        chosen = [str(file) for file in files if is_interpreted(file) == interpreted]
        if failed := _pytest(chosen, interpreted, until):
            wrong.append(failed)
    try:
        if types.wait(max(LEAST, until - time.monotonic())):
            wrong.append("types")
    except subprocess.TimeoutExpired:
        types.terminate()
        print("stopped: mypy had no time to finish; its next run goes on from its cache.")
    print(f"failed: {', '.join(wrong)}" if wrong else f"checked, with the tests in {' '.join(tests)}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
