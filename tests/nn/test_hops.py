"""How many of the library's own Python frames stand on the stack, at most, in a step of layers that have run before."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.acceleration import root
from fastinpaint.bench.contenders import Workload, build
from fastinpaint.ops.conv_block import torch_library
from fastinpaint.ops.dispatch import native
from fastinpaint.testing import launches

OWN = str(Path(fastinpaint.__file__).parent)
# the stand-ins for launches, and the frame that stands around a whole model
NOT_COUNTED = str(Path(launches.__file__)), str(Path(root.__file__))
# From ``layer(x)``, or the border of a model, to the C ABI or the launch, helpers included. Not counted here: a pool's
# bookkeeping for maps of 1 MiB and more, maps that backward makes again, sums of a residual network.
MOST_FRAMES = 5

needs_cpu = pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")


def deepest(work: Callable[[], object]) -> list[str]:
    """The longest stack of own frames while work runs."""
    now: list[str] = []
    longest: list[str] = []

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal longest
        if frame.f_code.co_filename.startswith(OWN) and not frame.f_code.co_filename.startswith(NOT_COUNTED):
            if event == "call":
                now.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
                longest = max(longest, list(now), key=len)
            elif event == "return":
                now.pop()

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return longest


def block(into: int, out: int, conv: type[nn.Module] = nn.Conv2d, norm: type[nn.Module] = nn.BatchNorm2d) -> list[Any]:
    return [conv(into, out, 3, padding=1, bias=False), norm(out), nn.ReLU()]


def plain() -> nn.Sequential:
    return nn.Sequential(*itertools.chain(*[block(into, out) for into, out in itertools.pairwise((3, 16, 16, 16))]))


def video() -> nn.Sequential:
    frames = nn.Conv3d(16, 16, (1, 3, 3), padding=(0, 1, 1))
    return nn.Sequential(*block(3, 16, nn.Conv3d, nn.BatchNorm3d), *block(16, 16, nn.Conv3d, nn.BatchNorm3d), frames)


def without_norms() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1))


def upwards() -> nn.Sequential:
    up = nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*block(3, 16), *up, nn.Conv2d(16, 3, 3), nn.ReLU())


NETS = {"plain": plain, "video": video, "without norms": without_norms, "upwards": upwards}


def check(net: nn.Module, x: torch.Tensor) -> None:
    """A training step and an evaluation, each the third time, stand on few frames."""
    losses: list[torch.Tensor] = []
    for _ in range(2):
        net(x).sum().backward()
    found = {"forward": deepest(lambda: losses.append(net(x).sum()))}
    with torch.autograd.set_multithreading_enabled(False):
        found["backward"] = deepest(losses[0].backward)
    net.eval()
    with torch.no_grad():
        net(x)
        found["evaluation"] = deepest(lambda: net(x))
    assert all(0 < len(stack) <= MOST_FRAMES for stack in found.values()), found


@needs_cpu
@pytest.mark.parametrize("kernels", ["onednn", "own"])
@pytest.mark.parametrize("net", NETS)
def test_a_warm_step_stands_on_few_own_frames(net: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", kernels)
    x = torch.randn(1, 3, 4, 8, 8) if net == "video" else torch.randn(1, 3, 8, 8)
    check(fastinpaint.accelerate(NETS[net](), objective="fuse"), x)


@needs_cpu
def test_a_large_map_is_evaluated_on_few_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    check(fastinpaint.accelerate(plain(), objective="fuse"), torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_launch_on_a_gpu_stands_on_few_own_frames(backend: str, net: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    x = torch.randn(1, 3, 4, 8, 8) if net == "video" else torch.randn(1, 3, 8, 8)
    with launches.without_launches(backend) as launched:
        check(fastinpaint.accelerate(NETS[net](), backend=backend), x)
    passes = ("fi_conv_fwd", "fi_conv_bwd")
    if backend == "triton":
        passes = ("conv_fwd_kernel", "conv_dgrad_kernel", "conv_wgrad_kernel")
    assert set(passes) <= set(launched)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_warm_step_describes_no_convolution_again(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the joint network, whose transposed convolutions read maps with zeros around them."""
    if backend == "triton":
        pytest.importorskip("triton")
    described: list[tuple[int, ...]] = []
    right = torch_library.call_of

    def call_of(sources: Any, *rest: Any) -> Any:
        described.append(tuple(sources[0].x.shape))
        return right(sources, *rest)

    monkeypatch.setattr(torch_library, "call_of", call_of)
    with launches.without_launches(backend):
        run = build(f"fastinpaint {backend}", Workload(frames=2, size=16, width=1 / 16))
        run.gradients()
        convolutions = len(described)
        run.gradients()
    assert convolutions > 30
    assert len(described) == convolutions
