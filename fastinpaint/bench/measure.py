"""Time, peak memory and kept-for-backward bytes of a callable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastinpaint.bench.machine import synchronise


@dataclass(frozen=True)
class Timing:
    """Percentiles of the seconds that one call took."""

    p20: float
    p50: float
    p80: float
    runs: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Timing:
        """From the single timings."""
        values = np.asarray(list(seconds))
        p20, p50, p80 = (float(np.percentile(values, q)) for q in (20, 50, 80))
        return cls(p20, p50, p80, len(values))

    @property
    def noisy(self) -> bool:
        """Whether the middle 60 % of the runs spread over more than a tenth of the median."""
        return self.p80 - self.p20 > 0.1 * self.p50


def time_in_turn(
    contenders: dict[str, Callable[[], Any]], device: torch.device, seconds: float, least: int = 3, warmup: int = 1
) -> dict[str, Timing]:
    """Time several callables in turn, A B C A B C, so that a drift of the machine meets all of them alike.

    Args:
        contenders: what to time, by name.
        device: synchronised around each call.
        seconds: about how long each contender may take in all, after its warm-up.
        least: at least so many counted calls each.
        warmup: calls of each that are not counted.
    """
    for work in contenders.values():
        for _ in range(warmup):
            work()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    while any(len(t) < least or (sum(t) < seconds and len(t) < 1000) for t in taken.values()):
        for name, work in contenders.items():
            if len(taken[name]) >= least and sum(taken[name]) >= seconds:
                continue
            synchronise(device)
            start = time.perf_counter()
            work()
            synchronise(device)
            taken[name].append(time.perf_counter() - start)
    return {name: Timing.of(t) for name, t in taken.items()}


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward: distinct storages, parameters excluded.

    ``forward`` must return the loss, which stays alive while the storages are counted.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice while we count
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(kept.values())
