"""Describes the machine of a measurement and measures its ceilings."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from fastinpaint._version import __version__
from fastinpaint.ops.dispatch.autotune import processor_name

# Sizes for measuring the ceilings: floats to copy (more than any cache holds) and the side of the square matrices.
SIZES = {"cuda": (1 << 28, 8192), "cpu": (1 << 24, 1536)}


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished. Does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with its vector width and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


@functools.cache  # a long run belongs to the commit that it started with
def commit() -> str:
    """The checkout's short commit, with ``+`` if tracked files are modified; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        git = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=20)
        head = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        dirty = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if dirty else "")


def _best_time(work: Any, device: torch.device, repeats: int) -> float:
    """The shortest of several timings in seconds, as a ceiling must be measured undisturbed."""
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best


@functools.cache
def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure ``copy_gbs`` (GB read plus written per second) and ``matmul_tflops`` of a square matrix product.

    On a CPU the product is torch.mm or a 1x1 convolution, whichever is faster.
    """
    big, side = SIZES[device.type]
    source = torch.randn(big, device=device)
    target = torch.empty_like(source)
    copy = _best_time(lambda: target.copy_(source), device, 8)
    a = torch.randn(side, side, device=device).to(dtype)
    product = _best_time(lambda: torch.mm(a, a), device, 8)
    if device.type == "cpu":  # torch.mm uses half vectors on some processors; its convolutions do not
        x, weight = a.view(1, side, side, 1).contiguous(memory_format=torch.channels_last), a.view(side, side, 1, 1)
        with torch.no_grad():
            product = min(product, _best_time(lambda: torch.conv2d(x, weight), device, 8))
    return {"copy_gbs": 2 * source.nbytes / copy / 1e9, "matmul_tflops": 2 * side**3 / product / 1e12}


def rates(seconds: float, flops: int, moved: int, ceiling: dict[str, float]) -> dict[str, Any]:
    """Compare a time with this machine's ceilings.

    Args:
        seconds: of one call.
        flops, moved: operations and bytes that a call needs at least; 0 if unknown.
        ceiling: the result of `ceilings`.

    Returns:
        ``gflops`` and ``gbs`` per second; ``floor_seconds``, the time of the slower of both at the ceilings;
        ``percent_of_floor``, its share of the measured time. Unknown figures are None.
    """
    floor = max(flops / (1e12 * ceiling["matmul_tflops"]), moved / (1e9 * ceiling["copy_gbs"]))
    return {
        "gflops": flops / seconds / 1e9 or None,
        "gbs": moved / seconds / 1e9 or None,
        "floor_seconds": floor or None,
        "percent_of_floor": 100 * floor / seconds or None,
        "ceilings": ceiling,
    }


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions, commit and date, for every row."""
    versions = {"fastinpaint": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {
        "device": device_name(device),
        "versions": versions,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
