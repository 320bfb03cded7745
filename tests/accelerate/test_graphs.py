"""CUDA graphs of accelerated models, without a GPU.

torch.cuda.make_graphed_callables gets graphs that capture nothing: the work runs where it would be captured. Of
``torch.compile(mode="reduce-overhead")`` the graphs are examined that inductor would capture.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import fastinpaint
from fastinpaint.acceleration import first_call
from fastinpaint.acceleration.root import Root, own_class
from fastinpaint.models import ModelConfig, VideoCompletionNet
from tests.accelerate.slow_layers import clock, stock_is_slow

__all__ = ["clock", "stock_is_slow"]  # fixtures


def block(into: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(into, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class Net(nn.Module):
    """No nn.Sequential at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*block(3, 4))
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class Residual(nn.Module):
    """Sums of two branches, one of which is strided, and a linear layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*block(3, 8))
        self.branch = nn.Sequential(*block(8, 8, 2), *block(8, 8)[:2])
        self.short = nn.Sequential(nn.Conv2d(8, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.relu(self.branch(x) + self.short(x)).mean((2, 3)))


class UNet(nn.Module):
    """A skip connection by concatenation. It returns two maps, of which one is an inner activation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Sequential(*block(3, 8)), nn.Sequential(*block(8, 8, 2))
        self.up, self.last = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.Sequential(*block(16, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skip = self.down(x)
        return {"map": self.last(torch.cat([self.up(self.low(skip)), skip], 1)), "skip": skip}


class Joint(nn.Module):
    """The paper's two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VideoCompletionNet(ModelConfig(width=1 / 16, r=2))

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(video, mask)


def pictures() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


def videos() -> tuple[Tensor, ...]:
    return torch.rand(1, 3, 2, 16, 16), (torch.rand(1, 1, 2, 16, 16) > 0.5).float()


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "plain": (Net, pictures),
    "row": (lambda: nn.Sequential(*block(3, 8), *block(8, 3)), pictures),
    "residual sums": (Residual, pictures),
    "u-net": (UNet, pictures),
    "joint network": (Joint, videos),
}


@pytest.fixture
def graphs() -> Iterator[None]:
    """CUDA graphs and streams of torch's module, without a GPU."""
    nothing: dict[str, Any] = {
        "CUDAGraph": mock.MagicMock, "graph_pool_handle": lambda: None, "graph": lambda *_, **__: nullcontext(),
    }  # fmt: skip
    device: dict[str, Any] = {"synchronize": lambda: None, "Stream": lambda: None, "stream": lambda _: nullcontext()}
    with mock.patch.multiple(torch.cuda.graphs, **nothing), mock.patch.multiple(torch.cuda, **nothing, **device):
        yield


def leaves(result: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(result)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("kind", KINDS)
def test_make_graphed_callables_takes_an_accelerated_model(kind: str, memory: str) -> None:
    """What it captures is what the plain model computes, gradients included. Replays do nothing here."""
    make, batch = KINDS[kind]
    torch.manual_seed(0)
    plain = make().double()
    x = tuple(t.double() for t in batch())
    net = fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse", memory=memory)
    graphed = torch.cuda.make_graphed_callables(net, x)
    warm_ups = 3 + 1
    expected = [plain(*x) for _ in range(warm_ups)][-1]
    found = graphed(*x)
    for y, other in zip(leaves(found), leaves(expected), strict=True):
        assert type(y) is Tensor
        assert y.requires_grad
        torch.testing.assert_close(y, other)
    assert type(found) is type(expected)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))
    sum(y.sum() for y in leaves(found)).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    plain.eval()
    for y, other in zip(leaves(net(*x)), leaves(plain(*x)), strict=True):
        torch.testing.assert_close(y, other)


@pytest.mark.usefixtures("graphs")
def test_the_captured_backward_gives_the_gradients_of_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain, x = UNet().double(), pictures()[0].double()
    net = fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse")
    captured: list[tuple[Tensor, ...]] = []
    right = torch.autograd.grad

    def grad(**given: Any) -> Any:
        given["grad_outputs"] = tuple(torch.ones_like(y) for y in given["outputs"])
        captured.append(right(**given))
        return captured[-1]

    monkeypatch.setattr(torch.autograd, "grad", grad)
    torch.cuda.make_graphed_callables(net, (x,))
    sum(y.sum() for y in leaves(plain(x))).backward()
    assert len(captured) == 4
    for found, parameter in zip(captured[-1], plain.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


@pytest.mark.usefixtures("graphs", "stock_is_slow")
def test_a_model_that_measures_itself_does_so_before_the_capture() -> None:
    net = fastinpaint.accelerate(Net())
    torch.cuda.make_graphed_callables(net, pictures())
    assert net.fastinpaint_report.how == "measured"


def test_kernels_are_compiled_before_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook-free way also runs what a model's first call does on a GPU with Triton."""
    ran: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(first_call, "before_first_call", lambda *_: ran.append(True))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    net = fastinpaint.accelerate(Net(), objective="fuse")
    assert not net._forward_pre_hooks
    net(*pictures())
    assert ran == [True]


def test_the_model_keeps_its_class_by_name_and_gets_it_back() -> None:
    net = fastinpaint.accelerate(Net(), objective="fuse")
    x = pictures()[0]
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(twin, Net)
        assert isinstance(twin, Root)
        assert (type(twin).__name__, own_class(type(twin))) == ("Net", Net)
        torch.testing.assert_close(twin(x), net(x))
        assert type(fastinpaint.restore(twin)) is Net
        fastinpaint.accelerate(twin, objective="fuse")


def test_a_forward_of_the_instance_is_kept() -> None:
    """Then hooks enter the model."""
    net, x = Net(), pictures()[0]
    net.forward = lambda x: 2 * Net.forward(net, x)  # type: ignore[method-assign]
    expected = net(x)
    fastinpaint.accelerate(net, objective="fuse")
    assert type(net) is Net
    assert len(net._forward_hooks) == 1
    torch.testing.assert_close(net(x), expected)
    assert not fastinpaint.restore(net)._forward_hooks


@pytest.mark.parametrize("kind", ["residual sums", "u-net"])
def test_a_compiled_step_has_nothing_that_a_cuda_graph_refuses(kind: str) -> None:
    """It is one graph forward and one backward. No operator reads a value, and none changes but the model's buffers."""
    make, batch = KINDS[kind]
    torch.manual_seed(0)
    plain, x = make(), batch()
    net = fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse")
    seen: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        seen.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()  # other tests' compilations count against the limit of recompilations
    compiled = torch.compile(net, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    for y, other in zip(leaves(compiled(*x)), leaves(plain(*x)), strict=True):
        torch.testing.assert_close(y, other, rtol=1e-3, atol=1e-4)
        y.sum().backward(retain_graph=True)
    assert len(seen) == 2
    calls = [node for graph in seen for node in graph.graph.nodes if node.op == "call_function"]
    assert any("fastinpaint" in str(node.target) for node in calls)
    refused = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.cudagraph_unsafe}
    assert not [node for node in calls if refused & set(getattr(node.target, "tags", ()))]
    changed = [node.args[0] for node in calls if node.target is torch.ops.aten.copy_.default]
    assert all(node.op == "placeholder" for node in changed)
    assert len(set(changed)) == len(changed) <= len(list(net.buffers()))
