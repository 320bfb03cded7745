"""Linear layers that compute their input again: torch's results, and what is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration.links import record
from fastinpaint.nn.linear import NOTE
from fastinpaint.ops.dispatch import native, native_cpu
from fastinpaint.testing import rule
from tests.nn.test_activated import kept_bytes

ACTS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "relu6": nn.ReLU6,
    "softplus": nn.Softplus,
    "in place": lambda: nn.SiLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
}


class Block(nn.Module):
    """ConvNeXt's: a depthwise convolution, and a norm and two linear layers over the channels of each pixel."""

    def __init__(self, channels: int, act: str = "gelu") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), ACTS[act](), nn.Dropout(0.0), nn.Linear(4 * channels, channels)
        )
        self.scale = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Three linear layers read one norm's result, which the model returns too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=i > 0) for i in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x * 2)
        return torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1) @ self.v(y), y


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    found = net(x)
    results = list(found) if isinstance(found, tuple) else [found]
    sum(t.sin().sum() for t in results).backward()  # type: ignore[union-attr]
    return [*results, x.grad, *(p.grad for p in net.parameters())]  # type: ignore[list-item]


def same_as_torch(net: nn.Module, x: Tensor) -> nn.Module:
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    for ours, theirs in zip(step(fast, x), step(net, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    return fast


@pytest.mark.parametrize("act", ACTS)
def test_a_convnext_block_is_torchs(act: str) -> None:
    same_as_torch(Block(6, act).double(), torch.randn(2, 6, 5, 4, dtype=torch.float64))


def test_several_readers_of_one_norm() -> None:
    net = Attention().double()
    fast = same_as_torch(net, torch.randn(2, 5, 8, dtype=torch.float64))
    assert not any(vars(t).get(NOTE) for t in fast(torch.randn(2, 5, 8, dtype=torch.float64)))


@pytest.mark.parametrize("frozen", ["mlp.0", "mlp.3", "norm", "conv"])
def test_frozen_layers(frozen: str) -> None:
    net = Block(6).double()
    net.get_submodule(frozen).requires_grad_(False)
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    ours, theirs = (torch.autograd.grad(each(x).sin().sum(), [x, each.scale]) for each in (fast, net))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_neither_activations_nor_norms_are_kept(act: str) -> None:
    """Of one channel count: the sum, y, the first linear layer's four, and what the scale reads; torch keeps 12."""
    net, x = nn.Sequential(*(Block(16, act) for _ in range(3))), torch.randn(2, 16, 24, 24).requires_grad_()
    x = x.contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)
    stock = kept_bytes(net, x) / x.nbytes
    ours = kept_bytes(fastinpaint.accelerate(net, objective="fuse"), x) / x.nbytes
    assert stock - ours == pytest.approx(3 * 5, abs=0.1)


def test_double_backward_is_torchs() -> None:
    net = Block(4).double()
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)

    def penalty(net: nn.Module) -> list[Tensor]:
        (dx,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(dx.square().sum(), [x, *net.parameters()], allow_unused=True))

    ours, theirs = penalty(fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")), penalty(net)
    for mine, right in zip(ours, theirs, strict=True):
        assert (mine is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-8)


class Changing(nn.Module):
    """Changes an activation's result in place before a linear layer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        y[0] = 0.25
        return self.last(y)


def test_a_result_that_changed_is_not_computed_again() -> None:
    same_as_torch(Changing().double(), torch.randn(3, 4, dtype=torch.float64))


def test_hooks_change_what_an_activation_returns() -> None:
    net = Block(6).double()
    for each in (net, fast := fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")):
        each.mlp[1].register_forward_hook(lambda module, args, result: result.mul_(2))
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    for ours, theirs in zip(step(fast, x), step(net, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_under_autocast_torchs_own_layer_runs() -> None:
    net = Block(8)
    fast, x = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse"), torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(x), net(x)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_linear_layers_that_gain_are_parts_of_their_own() -> None:
    net = nn.Sequential(Block(4), Block(4, "relu"))
    links = record(net, lambda: net(torch.randn(1, 4, 5, 4)))
    assert links.order == ["0.conv", "0.mlp.0", "0.mlp.3", "1.conv", "1.mlp.0"]


class Rows(nn.Module):
    """A linear layer, GELU, and another one, over more values than the kernels take at least."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 64), nn.GELU(approximate), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)))


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="needs the CPU kernels")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_large_plain_maps_is_no_less_exact_than_torchs(approximate: str) -> None:
    torch.manual_seed(0)
    net, x = Rows(approximate), 3 * torch.randn(4100, 8)
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    own = approximate == "tanh" or native_cpu.isa() != "scalar"
    assert (type(fast.act(fast.first(x)).grad_fn).__name__ == "GeluBackward") == own
    ours, plain, exact = step(fast, x), step(net, x), step(copy.deepcopy(net).double(), x.double())
    names = ["y", "dx", *(name for name, _ in net.named_parameters())]
    rule.check_all(names, ours, plain, exact)
    with torch.no_grad():
        rule.check_all(["y"], [fast(x)], [net(x)], [exact[0].detach()])
    twice = [
        torch.autograd.grad(each(x.requires_grad_()).square().sum(), x, create_graph=True)[0] for each in (fast, net)
    ]
    ours, plain = ([torch.autograd.grad(dx.square().sum(), x)[0]] for dx in twice)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_a_result_of_gelu_can_be_changed_in_place() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.ReLU(inplace=True)), torch.randn(4100, 8)
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    for ours, theirs in zip(step(fast, x), step(net, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
