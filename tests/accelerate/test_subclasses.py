"""Subclasses of torch's layers: fused where they only construct themselves otherwise, and left where they compute."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.nn import layers


class Strided(nn.Conv2d):
    """A convolution by another constructor, with a method of its own."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride, 1, bias=False)

    @staticmethod
    def downsample_stride(stride: int) -> int:
        return stride


class Shifted(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Scaled(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class Counted(nn.Conv2d):
    def __call__(self, input: Tensor) -> Tensor:
        return 3 * super().__call__(input)


class Attribute(nn.Conv2d):
    @property
    def standardised(self) -> Tensor:
        return self.weight / 2


def net_of(conv: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).double()


def test_a_subclass_with_another_constructor_is_fused() -> None:
    plain = net_of(Strided(16, 2))
    fast, x = fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse"), torch.randn(2, 16, 8, 8).double()
    assert isinstance(fast[0], layers.Conv2d)
    assert isinstance(fast[0], Strided)
    for net in (plain, fast):
        net(x).square().sum().backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert type(again[0]) is type(fast[0])
        torch.testing.assert_close(again.eval()(x), copy.deepcopy(plain).eval()(x))
    assert type(fastinpaint.restore(fast)[0]) is Strided


@pytest.mark.parametrize("kind", [Shifted, Scaled, Counted, Attribute])
def test_a_subclass_that_may_compute_something_else_is_left(kind: type[nn.Conv2d]) -> None:
    plain = net_of(kind(16, 16, 3, padding=1))
    fast, x = fastinpaint.accelerate(copy.deepcopy(plain), objective="fuse"), torch.randn(2, 16, 8, 8).double()
    assert type(fast[0]) is kind
    assert (
        fast.fastinpaint_report.left["0"] == f"{kind.__name__} is a subclass of Conv2d, and may compute something else."
    )
    torch.testing.assert_close(fast(x), plain(x))
