"""How many of the library's own Python frames stand on the stack, at most, in a step of layers that have run before."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.dispatch import native

OWN = str(Path(fastinpaint.__file__).parent)
# Helpers included. Forward ends with the activation that leaves the model, which is the deepest.
MOST_FRAMES = {"forward": 14, "backward": 7, "evaluation": 4}

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")


def deepest(work: Callable[[], object]) -> int:
    """The most own frames that stand on one another while work runs."""
    now = most = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal now, most
        if frame.f_code.co_filename.startswith(OWN):
            now += (event == "call") - (event == "return")
            most = max(most, now)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return most


@pytest.mark.parametrize("kernels", ["onednn", "own"])
def test_a_warm_step_stands_on_few_own_frames(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", kernels)
    blocks = [
        (nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        for into, out in itertools.pairwise((3, 16, 16, 16))
    ]
    net = fastinpaint.accelerate(nn.Sequential(*itertools.chain(*blocks)), objective="fuse")
    x, losses = torch.randn(1, 3, 8, 8), []
    net(x).sum().backward()
    found = {"forward": deepest(lambda: losses.append(net(x).sum()))}
    with torch.autograd.set_multithreading_enabled(False):
        found["backward"] = deepest(losses[0].backward)
    net.eval()
    with torch.no_grad():
        net(x)
        found["evaluation"] = deepest(lambda: net(x))
    assert all(found[way] <= most for way, most in MOST_FRAMES.items()), found
