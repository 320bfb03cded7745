"""How many Python functions a layer's training step calls: on small maps that, not arithmetic, is its time."""

from __future__ import annotations

import itertools
import sys
from types import FrameType

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.ops.dispatch import native

CHANNELS = 16
MOST_CALLS = {"onednn": 350, "own": 320}


def calls_of_a_step(layers: int) -> int:
    """Python functions called by forward and backward of so many layers, the second time they run."""
    sizes = [3] + [CHANNELS] * layers
    blocks = [
        (nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        for into, out in itertools.pairwise(sizes)
    ]
    net = fastinpaint.accelerate(nn.Sequential(*(layer for block in blocks for layer in block)))
    x, calls = torch.randn(1, 3, 8, 8), 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def step() -> Tensor:
        net(x).sum().backward()

    step()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("kernels", ["onednn", "own"])
def test_a_layer_calls_few_functions(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", kernels)
    more, fewer = calls_of_a_step(6), calls_of_a_step(2)
    assert (more - fewer) / 4 < MOST_CALLS[kernels]
