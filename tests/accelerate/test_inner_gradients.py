"""Gradients by a network's inner maps are whole, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.nn import layers
from tests.accelerate.nets import assert_same_step
from tests.accelerate.slow_layers import clock, stock_is_slow

__all__ = ["clock", "stock_is_slow"]  # fixtures


class Net(nn.Module):
    """Two convolutions with batch norm, and what reads the map between them."""

    def __init__(self, body: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.next, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 2, 3)
        self.body, self.map = body, None
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.act(self.bn(self.conv(x))))


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def score(net: Net, x: Tensor) -> Tensor:
    (by,) = torch.autograd.grad(net.next(x).square().sum(), x, create_graph=True)
    return net.last(x + by)


def unused(net: Net, x: Tensor) -> Tensor:
    ends, options = [net.next(x).square().sum()], {"allow_unused": True, "materialize_grads": True}
    (by,) = torch.autograd.grad(ends, [x], create_graph=True, **options)
    return net.last(x + by)


def reversed_later(net: Net, x: Tensor) -> Tensor:
    y = net.next(x)
    x.register_hook(torch.neg)
    return net.last(y + x)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch, clock: object) -> None:
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")


INSIDE = {"grad": score, "grad that allows unused inputs": unused, "a hook": reversed_later}


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("body", INSIDE.values(), ids=INSIDE)
def test_inside_the_model(body: Callable[[Net, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r"fastinpaint: .* layer 'bn'"):
        fastinpaint.accelerate(Net(body), objective="fuse")(image())
    fast = fastinpaint.accelerate(Net(body), objective="speed")
    assert_same_step(fast, Net(body), image())
    assert isinstance(fast.conv, layers.Conv2d)
    assert fast.bn._fastinpaint_plain


def returned(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    return net.last(net.next(x)), x


def kept(net: Net, x: Tensor) -> tuple[Tensor, None]:
    net.map = x
    return net.last(net.next(x)), None


def seen_by(net: Net) -> list[Tensor]:
    """Gradients by the map between the convolutions."""
    y, x = net(image())
    x = net.map if x is None else x
    x.retain_grad()
    loss = y.square().sum() + x.sum()
    (by,) = torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    return [by, x.grad]


@pytest.mark.parametrize("how", ["rules", "measured"])
@pytest.mark.parametrize("body", [returned, kept])
@pytest.mark.usefixtures("stock_is_slow")
def test_of_maps_that_a_model_hands_out(
    body: Callable[[Net, Tensor], Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "rules":
        monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    net, fast = Net(body), fastinpaint.accelerate(Net(body), objective="speed")
    for mine, theirs in zip(seen_by(fast), seen_by(net), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert fast.fastinpaint_report.how == how
    assert isinstance(fast.next, layers.Conv2d)
    assert fast.bn._fastinpaint_plain
    assert not fast.conv._fastinpaint_plain


@pytest.mark.usefixtures("rules")
def test_a_map_that_no_other_layer_reads_stays_deferred() -> None:
    """The logits and their sigmoid, and the last of three maps."""

    def body(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.last(net.next(x))
        return y, torch.sigmoid(y)

    fast = fastinpaint.accelerate(Net(body), objective="speed")
    assert_same_step(fast, Net(body), image())
    assert not any(vars(module).get("_fastinpaint_plain") for module in fast.modules())


@pytest.mark.usefixtures("rules")
def test_copies_keep_what_must_be_plain() -> None:
    fast = fastinpaint.accelerate(Net(returned), objective="speed")
    seen_by(fast)
    for mine, theirs in zip(seen_by(copy.deepcopy(fast)), seen_by(Net(returned)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
