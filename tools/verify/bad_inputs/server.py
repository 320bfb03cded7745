"""Runs calls in forks of one warm process, each in a folder of its own, with time, memory and files watched."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.verify.bad_inputs.calls import Call, Outcome

MOST_SECONDS, MOST_BYTES = 60.0, 3 * 2**30
POLL = 0.01
ADDRESS_SPACE = 12 * 2**30
"""More than any call may reserve; it ends a runaway that outgrows MOST_BYTES between two looks."""

Snapshot = dict[str, tuple[int, int, int, str]]
PR_SET_PDEATHSIG = 1
PIPE_BYTES = 2**20
NOBODY = 54_321
MODULES = ("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg", "fastinpaint.bench.contenders")


def warm_up() -> None:
    """Import what the commands import, with one thread, so that forks are safe and start at once."""
    import cv2
    import torch

    from fastinpaint.cli import COMMANDS

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in [*MODULES, *(f"fastinpaint.cli.{command}" for command in COMMANDS)]:
        importlib.import_module(name)


def run(call: Call, material: Path) -> Outcome:
    """One call in a fresh folder beside links to the material, which must stay as it is."""
    with tempfile.TemporaryDirectory(prefix="bad-inputs-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        folder, out, err = place / "work", place / "stdout", place / "stderr"
        folder.mkdir()
        if call.setup is not None:
            call.setup(folder)
        if call.nobody:
            os.chmod(place, 0o777)
            os.chmod(folder, 0o777)
        before = {**snapshot(folder), **snapshot(material)}
        start = time.monotonic()
        with _recorder(call, err) as stderr:
            pid = _start(call, folder, out, stderr)
            code, peak, stopped = _watch(pid, start)
        seconds = time.monotonic() - start
        after = {**snapshot(folder), **snapshot(material)}
        return Outcome(code, _text(out), _text(err), seconds, peak, stopped, differences(before, after))


def snapshot(folder: Path) -> Snapshot:
    """Mode, size, time of change and, for a link, target of everything in a folder."""
    found: Snapshot = {}
    stack = [os.fsencode(folder)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                stat = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                path = os.fsdecode(os.path.relpath(entry.path, os.fsencode(folder)))
                link = os.fsdecode(os.readlink(entry.path)) if entry.is_symlink() else ""
                size, changed = (0, 0) if is_folder else (stat.st_size, stat.st_mtime_ns)
                found[path] = (stat.st_mode, size, changed, link)
                if is_folder and entry.name != b"many":  # 100,000 files that nobody writes
                    stack.append(entry.path)
    return found


def differences(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """What appeared, went or changed: "new: PATH"."""
    words = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            what = "new" if path not in before else "gone" if path not in after else "changed"
            words.append(f"{what}: {path}")
    return tuple(words)


@contextlib.contextmanager
def _recorder(call: Call, err: Path) -> Iterator[Path]:
    """Where stderr goes: a file, or, where files are limited, a pipe that is read at the end into that file."""
    if call.most_bytes is None:
        yield err
        return
    reads, writes = os.pipe()
    fcntl.fcntl(reads, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(reads, False)
    try:
        yield Path(f"/proc/self/fd/{writes}")
        with contextlib.suppress(BlockingIOError):
            err.write_bytes(os.read(reads, PIPE_BYTES))
    finally:
        os.close(reads)
        os.close(writes)


def _start(call: Call, folder: Path, out: Path, err: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            _end_with_parent()
            os.chdir(folder)
            _surround(call)
            _connect(0, "null", out)
            _connect(1, call.stdout, out)
            _connect(2, call.stderr, err)
            code = _fresh(call) if call.fresh else _in_fork(call)
        finally:
            os._exit(code)
    return pid


def _end_with_parent() -> None:
    """A call does not outlive the harness, whatever ends it (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _surround(call: Call) -> None:
    """The variables, the limits and the user that the call asks for."""
    for name, value in call.env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if call.most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (call.most_bytes, call.most_bytes))
    if call.nobody:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _connect(number: int, how: str, path: Path) -> None:
    """Make file descriptor 0, 1 or 2 what the call asks for."""
    if how == "gone":
        reads, writes = os.pipe()
        os.close(reads)
        os.dup2(writes, number)
        os.close(writes)
        return
    flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    name = {"full": "/dev/full", "null": os.devnull, "closed": os.devnull}.get(how, str(path))
    handle = os.open(name, flags, 0o666)
    os.dup2(handle, number)
    os.close(handle)


def _in_fork(call: Call) -> int:
    """What the interpreter would do with ``python -m fastinpaint``; returns the exit code."""
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    from fastinpaint.cli import main

    try:
        code = main([call.command, *call.argv])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"Traceback (most recent call last): at exit: {error!r}", file=sys.stderr, flush=True)
        code = 120
    return code


def _fresh(call: Call) -> int:
    """A new interpreter in place of this process."""
    for number, how in ((1, call.stdout), (2, call.stderr)):
        if how == "closed":
            os.close(number)
    command = [sys.executable, "-m", "fastinpaint", call.command, *call.argv]
    os.execv(sys.executable, [os.fsencode(word) for word in command])


def _watch(pid: int, start: float) -> tuple[int, int, str]:
    """Wait, but not for ever: exit code, peak bytes, and why the harness ended the process."""
    stopped = ""
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            peak = used.ru_maxrss * 1024
            if not stopped and peak > MOST_BYTES:
                stopped = f"took {peak / 2**30:.1f} GiB"
            with contextlib.suppress(ProcessLookupError):  # what it left behind in its own session
                os.killpg(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status), peak, stopped
        if not stopped:
            if time.monotonic() - start > MOST_SECONDS:
                stopped = f"ran for {MOST_SECONDS:.0f} seconds"
            elif _resident(pid) > MOST_BYTES:
                stopped = f"took {MOST_BYTES / 2**30:.0f} GiB"
            if stopped:
                os.killpg(pid, signal.SIGKILL)
        time.sleep(POLL)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _text(path: Path) -> str:
    return path.read_bytes()[:1_000_000].decode("utf-8", "backslashreplace") if path.exists() else ""


def in_child(work: Callable[[], None]) -> None:
    """Do something in a fork, since this process must not start threads."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("the material could not be made; the reason stands above.")
