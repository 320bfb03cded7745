"""Subclasses of torch's layers: those that compute the same are fused, under their own class; others are left."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from tests.accelerate.slow_layers import fused_layers


class Simple(nn.Conv2d):
    """As torchvision's Conv3DSimple: a constructor and a helper of its own."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    @staticmethod
    def stride_of(stride: int) -> tuple[int, int]:
        return stride, stride


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


class Doubling(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


class Calling(nn.Conv2d):
    def __call__(self, input: Tensor) -> Tensor:
        return 2 * super().__call__(input)


class Frozen(nn.Conv2d):
    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Simple(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Simple(8, 4)).double()


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_subclass_that_computes_the_same_is_fused(again: Callable[[nn.Module], nn.Module]) -> None:
    plain, x = network(), torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = gradients(plain, x)
    net = again(fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse"))
    assert fused_layers(net) == ["0", "3"]
    assert net.fastinpaint_report.left == {}
    assert isinstance(net[0], Simple)
    assert net[0].stride_of(2) == (2, 2)
    torch.testing.assert_close(gradients(net, x), expected, rtol=1e-8, atol=1e-8)
    fastinpaint.restore(net)
    assert type(net[0]) is Simple
    torch.testing.assert_close(gradients(net, x), expected)


@pytest.mark.parametrize(
    ("kind", "own"),
    [(Standardised, "forward"), (Doubling, "_conv_forward"), (Calling, "__call__"), (Frozen, "train")],
)
def test_a_subclass_that_may_compute_something_else_is_left(kind: type[nn.Conv2d], own: str) -> None:
    net, x = nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4)).double(), torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = copy.deepcopy(net)(x)
    fastinpaint.accelerate(net, objective="fuse")
    assert type(net[0]) is kind
    assert net.fastinpaint_report.left["0"].endswith(f"may compute something else: it has {own}.")
    torch.testing.assert_close(net(x), expected, rtol=1e-8, atol=1e-8)
