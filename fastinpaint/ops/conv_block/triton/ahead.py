"""Compiles a step's kernels in advance in several processes. Triton itself compiles one kernel at a time.

    with collecting() as launches:      # nothing is launched inside; results are uninitialised
        step()
    compile_new(launches)               # into Triton's cache, where the real launches find them

A launch is described by its kernel's name, the dtypes of its tensors, its numbers and options: all that the compiler
needs. Pointers count as 16-byte aligned, as torch's are. Workers are plain subprocesses that import only this module,
not the user's script.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from fastinpaint.errors import UserError
from fastinpaint.files import locked
from fastinpaint.ops.dispatch import native, tuning_cache
from fastinpaint.ops.dispatch.source_hash import source_hash

logger = logging.getLogger(__name__)
MOST_WORKERS = 16
LIMIT = 300.0  # seconds for all kernels; what is not compiled then compiles when it is first launched
WAIT = 0.2  # seconds between two looks at the lock
NOTHING_MORE = b""
Target = tuple[str, Any, int]  # backend, architecture, warp size
_collected: list[Launch] | None = None


class Launch(NamedTuple):
    """The description of a launch, with tensors replaced by their dtypes."""

    module: str
    kernel: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]


def is_collecting() -> bool:
    """Whether launches are being collected instead of run."""
    return _collected is not None


@contextlib.contextmanager
def collecting() -> Iterator[list[Launch]]:
    """Inside, collect each distinct Triton launch instead of running it."""
    global _collected
    from triton.runtime.jit import JITFunction

    upstream, found = JITFunction.run, dict[str, Launch]()
    listed: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launch = describe(self, args, options)
        if found.setdefault(repr(launch), launch) is launch:
            listed.append(launch)

    _collected, JITFunction.run = listed, run
    try:
        yield listed
    finally:
        _collected, JITFunction.run = None, upstream


def describe(kernel: Any, args: Sequence[Any], options: dict[str, Any]) -> Launch:
    """Describe a launch without its tensors."""
    given = tuple(_dtype_of(value) for value in args)
    named = tuple(sorted((name, _dtype_of(value)) for name, value in options.items()))
    return Launch(kernel.fn.__module__, kernel.fn.__name__, given, named)


def _dtype_of(value: Any) -> Any:
    return value.dtype if isinstance(value, Tensor) else value


def can_collect() -> bool:
    """Whether kernels are compiled here. Interpreted ones and stand-ins are not."""
    from triton.runtime.jit import JITFunction

    from fastinpaint.ops.activation import triton_kernels

    return type(triton_kernels.activation_fwd_kernel) is JITFunction


def compile_new(launches: Sequence[Launch], target: Target | None = None) -> int:
    """`compile_all` of the launches that were not compiled on this machine before. Returns the number of failures.

    Of several processes one compiles, and the others wait for it.
    """
    if not launches:
        return 0
    target = target or current_target()
    path, folder = _memory_file(target)
    named = {hashlib.sha256(repr(launch).encode()).hexdigest()[:16]: launch for launch in launches}
    with _alone(path.parent):
        known = tuning_cache.read(path) if folder.is_dir() else {}
        new = {name: launch for name, launch in named.items() if name not in known}
        failed = compile_all(list(new.values()), target)
        if new and not failed:
            tuning_cache.write(path, dict.fromkeys(new, 1))
    return failed


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other process that asks for it compiles, unless one has it for longer than `LIMIT`."""
    end = time.monotonic() + LIMIT
    with contextlib.ExitStack() as stack:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder, "the compiler"))
            except UserError:
                if time.monotonic() < end:
                    time.sleep(WAIT)
                    continue
            except OSError:  # nothing can be kept there
                pass
            break
        yield


def _memory_file(target: Target) -> tuple[Path, Path]:
    """The file with the names of compiled launches, and Triton's folder that holds the results."""
    import triton
    from triton import knobs

    folder, source = Path(knobs.cache.dir), source_hash(native.HERE.glob("ops/**/*.py"))
    return tuning_cache.file_of("compiled", repr(target), str(folder), triton.__version__, source), folder


def current_target() -> Target:
    """What Triton compiles for on the current device."""
    from triton.runtime import driver

    found = driver.active.get_current_target()
    return found.backend, found.arch, found.warp_size


def compile_all(
    launches: Sequence[Launch], target: Target | None = None, workers: int | None = None, limit: float = LIMIT
) -> int:
    """Compile launches into Triton's cache. Returns the number of failures; the real launch raises their errors.

    Args:
        target: by default the current device's.
        workers: number of processes; by default one per core, at most `MOST_WORKERS`.
        limit: seconds after which the workers are ended. What they have not compiled counts as failed.
    """
    if not launches:
        return 0
    count = min(len(launches), workers or min(MOST_WORKERS, len(os.sched_getaffinity(0))))
    target, started, answers = target or current_target(), list[Any](), queue.SimpleQueue[bytes]()
    command = [sys.executable, "-c", f"from {__name__} import work; work()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "CUDA_VISIBLE_DEVICES": ""}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    compiled, end = 0, time.monotonic() + limit
    try:
        for i in range(count):
            started.append(subprocess.Popen(command, env=environment, **pipes))
            share = pickle.dumps((target, list(launches[i::count])))
            threading.Thread(target=_serve, args=(started[-1], share, answers), daemon=True).start()
        working = count
        with tqdm(total=len(launches), desc="compile", unit="kernel", disable=None) as progress:
            while working:
                answer = answers.get(timeout=max(end - time.monotonic(), 0))
                working -= answer == NOTHING_MORE
                compiled += answer == b"."
                progress.update(len(answer))
    except queue.Empty:
        logger.warning(
            "triton: %d of %d kernels took over %g s to compile.", len(launches) - compiled, len(launches), limit
        )
    except OSError as error:
        logger.warning("triton: no process could be started to compile kernels: %s.", error.strerror)
    finally:
        for worker in started:
            worker.kill()
            worker.wait()
    return len(launches) - compiled


def _serve(worker: Any, share: bytes, answers: queue.SimpleQueue[bytes]) -> None:
    """Give a worker its launches, and pass on its answers: "." for a compiled kernel, "x" for a failure."""
    with contextlib.suppress(OSError), worker.stdout:  # a worker that ends early breaks its pipe
        with worker.stdin:
            worker.stdin.write(share)
        while answer := worker.stdout.read(1):
            answers.put(answer)
    answers.put(NOTHING_MORE)


class TargetDriver:
    """A driver with a target but without a device."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: Any) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


def work() -> None:
    """Worker: compile the launches from standard input and print one character for each."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target, launches = pickle.loads(sys.stdin.buffer.read())
    driver.set_active(TargetDriver(GPUTarget(*target)))
    for launch in launches:
        sys.stdout.write("." if _try(launch) else "x")
        sys.stdout.flush()


def _try(launch: Launch) -> bool:
    kernel: Callable[..., Any] = getattr(importlib.import_module(launch.module), launch.kernel)
    try:
        kernel.warmup(*launch.arguments, grid=(1,), **dict(launch.options))  # type: ignore[attr-defined]
    except Exception:  # the real launch raises it again
        return False
    return True
