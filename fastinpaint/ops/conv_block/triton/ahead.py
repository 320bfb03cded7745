"""Compiles a step's kernels in advance in several processes. Triton itself compiles one kernel at a time.

    with collecting() as launches:      # nothing is launched inside; results are uninitialised
        step()
    compile_all(launches)               # into Triton's cache, where the real launches find them

A launch is described by its kernel's name, the dtypes of its tensors, its numbers and options: all that the compiler
needs. Pointers count as 16-byte aligned, as torch's are. Workers are plain subprocesses that import only this module,
not the user's script.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

MOST_WORKERS = 16
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


def compile_all(
    launches: Sequence[Launch], target: tuple[str, Any, int] | None = None, workers: int | None = None
) -> int:
    """Compile launches into Triton's cache. Returns the number of failures; the real launch raises their errors.

    Args:
        target: backend, architecture and warp size; by default the current device's.
        workers: number of processes; by default one per core, at most `MOST_WORKERS`.
    """
    if not launches:
        return 0
    if target is None:
        from triton.runtime import driver

        current = driver.active.get_current_target()
        target = (current.backend, current.arch, current.warp_size)
    count = min(len(launches), workers or min(MOST_WORKERS, len(os.sched_getaffinity(0))))
    command = [sys.executable, "-c", f"from {__name__} import work; work()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "CUDA_VISIBLE_DEVICES": ""}
    failed = 0
    with contextlib.ExitStack() as stack:
        started = []
        for i in range(count):
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            worker = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
            worker.stdin.write(pickle.dumps((target, list(launches[i::count]))))
            worker.stdin.close()
            started.append(worker)
        with tqdm(total=len(launches), desc="compile", unit="kernel", disable=None) as progress:
            for worker, share in zip(started, (len(launches[i::count]) for i in range(count)), strict=True):
                said = b""
                while byte := worker.stdout.read(1):  # "." for a compiled kernel, "x" for a failure
                    said += byte
                    progress.update()
                failed += share - said.count(b".")
    return failed


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
