"""Time, peak memory and kept-for-backward bytes of a callable."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from fastinpaint.acceleration.kept import kept_bytes  # noqa: F401 - part of this module's interface
from fastinpaint.bench.machine import synchronise
from fastinpaint.ops import buffer_pool

REPEATS_WITHIN = 0.05  # relative difference of medians above which a row is noisy
FLUSH_BYTES = 1 << 28  # bytes, more than any GPU's L2 cache


@dataclass(frozen=True)
class Timing:
    """Percentiles of the seconds per call.

    Attributes:
        runs: number of timed calls.
        drift: relative difference of the medians of the first and second half of the runs; for several turns, of the
            two fastest turns.
    """

    p20: float
    p50: float
    p80: float
    runs: int
    drift: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Timing:
        """Compute the percentiles of single timings."""
        values = np.asarray(list(seconds))
        p20, p50, p80 = (float(np.percentile(values, q)) for q in (20, 50, 80))
        half = len(values) // 2
        drift = abs(np.median(values[:half]) - np.median(values[half:])) / p50 if half else 1.0
        return cls(p20, p50, p80, len(values), float(drift))

    @classmethod
    def fastest(cls, turns: Sequence[Timing]) -> Timing:
        """The turn with the smallest median. Its drift is the relative distance to the next one's median."""
        first, *others = sorted(turns, key=lambda turn: turn.p50)
        return dataclasses.replace(first, drift=others[0].p50 / first.p50 - 1) if others else first

    @property
    def noisy(self) -> bool:
        """Whether the drift is larger than a repeated timing allows."""
        return self.drift > REPEATS_WITHIN


def time_in_turn(
    contenders: dict[str, Callable[[], Any]], device: torch.device, seconds: float, least: int = 4, warmup: int = 1
) -> dict[str, Timing]:
    """Time several callables in turns, each turn in another order, so that drift and caches affect all alike.

    Args:
        contenders: callables by name.
        device: synchronised around each call.
        seconds: approximate total time per contender after its warm-up.
        least: minimum number of timed calls each.
        warmup: untimed calls each.
    """
    for work in contenders.values():
        for _ in range(warmup):
            work()
    names, turn = list(contenders), 0
    taken: dict[str, list[float]] = {name: [] for name in names}
    while any(len(t) < least or (sum(t) < seconds and len(t) < 1000) for t in taken.values()):
        turn += 1
        for name in (names[i] for i in turn_order(len(names), turn - 1)):
            if len(taken[name]) >= least and sum(taken[name]) >= seconds:
                continue
            synchronise(device)
            start = time.perf_counter()
            contenders[name]()
            synchronise(device)
            taken[name].append(time.perf_counter() - start)
    return {name: Timing.of(t) for name, t in taken.items()}


def turn_order(count: int, turn: int) -> list[int]:
    """The order of contenders in a turn: every rotation, forwards and backwards.

    A call finds caches and allocator as the previous call left them, so no contender may always follow the same one.
    """
    places = [(i + turn // 2) % count for i in range(count)]
    return places[::-1] if turn % 2 else places


def time_pairwise(
    calls: Sequence[Callable[[], Any]], least: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """The seconds of each call, one per turn, so that the times of a turn can be compared pairwise.

    There are at least `least` turns, and more until `seconds` have passed. There is no warm-up or synchronisation.
    """
    taken: list[list[float]] = [[] for _ in calls]
    until = time.perf_counter() + seconds
    while len(taken[0]) < least or time.perf_counter() < until:
        for i in turn_order(len(calls), len(taken[0])):
            start = clock()
            calls[i]()
            taken[i].append(clock() - start)
    return taken


def device_times(work: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    """GPU seconds of each of several calls with a cold L2 cache.

    A buffer larger than any L2 is written before each call. This also gives the host time to queue the call's kernels.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in events:
        flush.zero_()
        start.record()
        work()
        end.record()
    torch.cuda.synchronize(device)
    return [1e-3 * start.elapsed_time(end) for start, end in events]


def allocated_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes that torch allocates during a call beyond those before it, from torch's allocation events."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with buffer_pool.disabled(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    # the profiler's raw events; its public list hides allocations inside operators
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(changes), default=0))
