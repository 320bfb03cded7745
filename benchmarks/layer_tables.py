"""Shared by the two tables of layers: comparing contenders, and keeping freed memory mapped."""

from __future__ import annotations

import ctypes
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from statistics import median

import torch

from fastinpaint.bench.measure import Timing
from fastinpaint.ops import buffer_pool

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
IN_USE = 2 << 30  # bytes in use during a step
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def speedup_over_best(taken: Sequence[Sequence[float]]) -> str:
    """The last contender's speed-up over the fastest of the others, ± its spread in percent.

    It is the median of the ratios of single turns. The spread is half the distance of their 20th and 80th percentiles.
    """
    *others, ours = taken
    best = min(others, key=median)
    ratio = Timing.of(theirs / own for theirs, own in zip(best, ours, strict=True))
    return f"{ratio.p50:.2f}±{50 * (ratio.p80 - ratio.p20) / ratio.p50:.0f}"


def speedup_of_sums(sums: Sequence[float]) -> str:
    """The speed-up for sums over layers, which have no spread."""
    return f"{min(sums[:-1]) / sums[-1]:.2f}"


def conditions(options: Namespace) -> str:
    """The conditions of a table."""
    return f"F={options.frames}, {options.threads} threads, torch {torch.__version__}, {options.clock} clock"


def keep_freed_memory() -> None:
    """Make malloc (glibc) and this library's buffer pool reuse freed memory instead of returning it to the system."""
    # the pool keeps a share of the peak memory in use: pretend that of a training step, not of a single layer
    buffer_pool.empty((1, IN_USE // 4, 1, 1), torch.float32, torch.channels_last)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
