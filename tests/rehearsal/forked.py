"""Runs ``python -m ...`` commands as forks of this process, which already has the fake GPU and all imports."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("csrc", "fastinpaint", "tools", "setup.py", "pyproject.toml", "README.md", "LICENSE")
TOOL = """#!/bin/sh
# stands in for a compiler: makes the file that it is asked for, and the list of what it depends on
while [ $# -gt 0 ]; do case "$1" in -o) : > "$2";; -MF) : > "$2";; esac; shift; done
"""


class Forked:
    """Replaces `subprocess.Popen` for the commands of gpu-check."""

    change: Callable[[list[str]], list[str]] = staticmethod(lambda command: command)

    def __init__(
        self, command: list[str], cwd: Path, stdout: IO[str], stderr: int, env: dict[str, str], start_new_session: bool
    ) -> None:
        assert command[0] == sys.executable, command
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in (1, 2):
                os.dup2(stdout.fileno(), number)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(cwd)
            os._exit(_status(lambda: _run(self.change(command[1:]))))

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` for a Python module; both outputs are returned as stdout and as stderr."""
    with tempfile.TemporaryFile("w+") as both:
        child = Forked(command, ROOT, both, subprocess.STDOUT, dict(os.environ), start_new_session=True)
        status = child.wait()
        both.seek(0)
        text = both.read()
    return subprocess.CompletedProcess(command, status, text, text)


def _status(work: Callable[[], Any]) -> int:
    """The exit status of a process that runs this function."""
    try:
        work()
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run(arguments: list[str]) -> None:
    """As ``python ARGUMENTS`` would."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    with tempfile.TemporaryDirectory() as folder:  # its build results are discarded
        copy = Path(folder)
        for name in BUILT_FROM:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            elif source.exists():
                shutil.copy(source, copy / name)
        (copy / "bin").mkdir()
        for tool in ("nvcc", "g++"):
            (copy / "bin" / tool).write_text(TOOL)
            (copy / "bin" / tool).chmod(0o755)
        os.environ |= {"CUDA_HOME": folder, "CXX": str(copy / "bin" / "g++")}
        os.chdir(folder)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        built = sorted(path.name for path in (copy / "fastinpaint").glob("*.so"))
        assert built == ["libfastinpaint_cpu.so", "libfastinpaint_cuda.so"], built
