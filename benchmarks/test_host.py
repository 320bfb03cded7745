"""What layers take on the host where arithmetic is next to nothing: a small layer's pass, and a step without launches.

Neither is a speed of the library: they are what a small map, or a GPU that waits for its launches, notices. Both run on
one thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.bench.contenders import TrainingStepRun, Workload, build
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.testing.launches import without_launches

pytestmark = pytest.mark.in_turns
LAYERS, CHANNELS, SIZE = 8, 8, 8
TINY = Workload(frames=2, size=16, width=1 / 16)  # of the joint network: 40 convolutions


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Backward on the caller's thread, and no other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.autograd.set_multithreading_enabled(False):
        yield
    torch.set_num_threads(threads)


def small_net() -> nn.Module:
    """Convolutions, batch norms and ReLUs of few channels."""
    torch.manual_seed(0)
    block = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*[copy.deepcopy(layer) for _ in range(LAYERS) for layer in block])


def channels_last(net: nn.Module) -> nn.Module:
    """Torch's own, in the layout of ours."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fused(net: nn.Module) -> nn.Module:
    """Ours."""
    return fastinpaint.accelerate(net, objective="fuse")


MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "eager": lambda net: net,
    "eager channels-last": channels_last,
    "fastinpaint": fused,
}


@pytest.mark.parametrize("contender", MAKERS)
def test_small_layers(contender, workload, measure):
    """A training pass of eight layers, 8 channels on 8x8: compared with plain PyTorch, then timed. CPU only."""
    if workload.device != "cpu":
        pytest.skip("the host's share on the CPU")
    x = torch.randn(1, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    net, stock = MAKERS[contender](small_net()), small_net()

    def step(net: nn.Module) -> Tensor:
        for parameter in net.parameters():
            parameter.grad = None
        y = net(x)
        y.square().sum().backward()
        return y

    torch.testing.assert_close(step(net), step(stock), rtol=1e-3, atol=1e-4)
    for found, expected in zip(net.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-2, atol=1e-3)
    measure(lambda: step(net), f"{LAYERS} small layers", contender, kind="host", layers=LAYERS)


@pytest.mark.parametrize("contender", ["eager", "cuda", "triton"])
def test_a_step_without_launches(contender, workload, measure):
    """Forward and backward of the joint network on the CPU, launching nothing. Eager PyTorch's has its arithmetic."""
    if workload.device != "cpu":
        pytest.skip("the host's share on the CPU")
    case = "joint step, host"
    if contender == "eager":
        measure(step_of(build("eager", TINY)), case, contender, kind="host")
        return
    if contender == "triton" and not triton_support.INSTALLED:
        pytest.skip("triton is not installed")
    with without_launches(contender) as launched:
        step = step_of(build(f"fastinpaint {contender}", TINY))
        step()
        assert len(launched) > 100
        measure(step, case, contender, kind="host", launches=len(launched))


def step_of(run: TrainingStepRun) -> Callable[[], None]:
    """Forward and backward; the loss may be any number. As an optimiser does, it lists the parameters once."""
    parameters = list(run.model.parameters())

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        run.forward().backward()

    return step
