"""Layers that are slow on a fake clock, so that choices do not depend on the machine's load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastinpaint.acceleration import finals, search, stopwatch
from fastinpaint.nn import layers
from fastinpaint.nn.pending_conv import PendingConv

SLOW = 0.01  # seconds that a slow layer takes


class Clock:
    """A fake clock: a microsecond passes at each reading, and more when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def wait(self, seconds: float = SLOW) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """Enable measuring, with the fake clock and few steps."""
    monkeypatch.setenv("FASTINPAINT_TUNE", "")
    monkeypatch.setenv("FASTINPAINT_OBJECTIVE", "speed")
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    monkeypatch.setattr(search, "RUNS", 1)
    monkeypatch.setattr(finals, "TURNS", 2)
    monkeypatch.setattr(finals, "MORE_TURNS", 1)
    monkeypatch.setattr(finals, "SHORT", 0.0)
    own = Clock()
    monkeypatch.setattr(stopwatch, "clock", own)
    return own


@pytest.fixture
def stock_is_slow(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    slowed(monkeypatch, nn.Conv2d, "_conv_forward", clock)


@pytest.fixture
def fused_is_slow(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    slowed(monkeypatch, PendingConv, "__init__", clock)


@pytest.fixture
def contiguous_is_slow(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Make stock convolutions of contiguous maps slow."""
    slowed(monkeypatch, nn.Conv2d, "_conv_forward", clock, lambda _, x, *rest: x.shape[1] > 3 and x.is_contiguous())


def slowed(
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    method: str,
    clock: Clock,
    where: Callable[..., bool] = lambda *_: True,
    seconds: float = SLOW,
) -> None:
    """Make a method of a class take extra seconds if a condition on the layer and its input holds."""
    right = getattr(kind, method)

    def slow(self: object, input: object, *args: object) -> object:
        if where(self, input, *args):
            clock.wait(seconds)
        return right(self, input, *args)

    slow.__module__ = right.__module__  # a layer whose method is not torch's is not fused
    monkeypatch.setattr(kind, method, slow)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [[nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)] for a, b in [(3, 16), (16, 16)]]
    return nn.Sequential(*layers[0], *layers[1], nn.Dropout(0.5), nn.Conv2d(16, 4, 1))


def image(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 12, 12)))


def fused_layers(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, layers._Conv)]
