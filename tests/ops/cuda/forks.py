"""Runs the cases' modules in forks of one process per sanitizer: importing them takes up to seven seconds."""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.verify import emulated

MODULES = (
    *("tests.ops.cuda.small_cases", "tests.ops.conv_block.cuda.hopper_wgrad"),
    "tests.ops.conv_block.cuda.hopper_probe",
)
LIMIT = 900  # seconds of a run


@functools.cache
def _server(sanitizer: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ops.cuda.forks"]
    environment = {**os.environ, **emulated.preload(sanitizer)}
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def run(
    sanitizer: str, module: str, arguments: Sequence[str], variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """The finished ``python -m module arguments`` with the sanitizer's runtime and these variables."""
    server = _server("address" if sanitizer == "bounds" else sanitizer)
    assert server.stdin
    assert server.stdout
    with tempfile.TemporaryDirectory() as folder:
        server.stdin.write(json.dumps([module, arguments, variables, folder]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        texts = [(Path(folder) / name).read_text() for name in ("1", "2")]
    return subprocess.CompletedProcess([module, *arguments], status, *texts)


def main() -> None:
    """Fork for each line of the standard input and answer with the fork's status. Returns in a fork to end it."""
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        module, arguments, variables, folder = json.loads(line)
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            for number in (1, 2):
                os.dup2(os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT), number)
            signal.alarm(LIMIT)
            os.environ.update(variables)
            sys.argv = [module, *arguments]
            return importlib.import_module(module).main()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    main()
