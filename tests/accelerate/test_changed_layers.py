"""Layers that somebody changed, and tensors of other classes: the fused layers must not compute something else."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastinpaint
from tests.accelerate.nets import assert_same_step


def row(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, **options)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, **options), nn.SiLU()).double()


def small() -> Tensor:
    return torch.randn(2, 3, 12, 12, dtype=torch.float64)


def fused(net: nn.Module, **options: Any) -> nn.Module:
    return fastinpaint.accelerate(net, objective="fuse", **options)


def around(self: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What image generators do for pictures that can be tiled."""
    return F.conv2d(F.pad(input, (1, 1, 1, 1), mode="circular"), weight, bias)


def tile(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer._conv_forward = types.MethodType(around, layer)  # type: ignore[method-assign]


def dilate(net: nn.Module) -> None:
    """As segmentation networks do; torch keeps the padding in numbers of a layer's own dilation too."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.dilation = (2, 1)


def pad_same(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = "same"


def widen(net: nn.Module) -> None:
    """A kernel of four taps, whose ends "same" pads differently."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight = nn.Parameter(torch.cat([layer.weight, layer.weight[..., :1]], -1).detach())
            layer.kernel_size = (3, 4)


CHANGES: dict[str, tuple[dict[str, Any], Callable[[nn.Module], None]]] = {
    "another _conv_forward": ({"padding": 1}, tile),
    "dilation, padding 'same'": ({"padding": "same"}, dilate),
    "padding becomes 'same'": ({}, pad_same),
    "an even kernel, padding 'same'": ({"padding": "same"}, widen),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_is_changed(change: str, when: str) -> None:
    options, apply = CHANGES[change]
    net, ours = row(**options), row(**options)
    apply(net)
    if when == "before":
        apply(ours)
    fast = fused(ours)
    if when == "after":
        fast(small())
        apply(fast)
        fast.load_state_dict(net.state_dict())
    assert_same_step(fast, net, small())
    assert_same_step(fast.eval(), net.eval(), small())


def test_a_class_of_torch_that_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", around)
    fast = fused(row(padding=1))
    assert "somebody has replaced its method _conv_forward." in fast.fastinpaint_report.left["0"]
    assert_same_step(fast, row(padding=1), small())


class Named(Tensor):
    """A class of a user, with torch's own meaning of all functions."""


class Half(Tensor):
    """A class that gives convolution another meaning, as quantised weights do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result / 2 if func in (F.conv2d, F.batch_norm, F.group_norm, F.prelu) else result


@pytest.mark.parametrize("kind", [Named, Half])
@pytest.mark.parametrize("what", ["0", "1", "3", "4"])
def test_a_weight_of_another_class(what: str, kind: type[Tensor]) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.PReLU(8))
        found = nn.Sequential(*layers, nn.Conv2d(8, 4, 3)).double()
        layer = found[int(what)]
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(kind))
        return found

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).as_subclass(Tensor)

    assert_same_step(fused(Plain()), Plain(), small())


@pytest.mark.parametrize("kind", [Named, Half])
@pytest.mark.parametrize("grad", [True, False])
def test_an_input_of_another_class(kind: type[Tensor], grad: bool) -> None:
    """As torchvision's transforms give it. The results have the classes that torch gives them."""
    net, x = row(), small().requires_grad_(grad)
    fast = fused(copy.deepcopy(net))
    right, found = (one(x.as_subclass(kind)) for one in (net, fast))
    assert type(found) is type(right)
    torch.testing.assert_close(found.as_subclass(Tensor), right.as_subclass(Tensor))


@pytest.mark.parametrize("operation", [torch.add, torch.mul, lambda a, b: torch.cat([a, b], 1), torch.Tensor.__add__])
def test_a_map_of_another_class_beside_a_deferred_one(operation: Callable[..., Tensor]) -> None:
    class Twice(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs or {})
            return result.as_subclass(Tensor) * 2 if isinstance(result, Twice) else result

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = row(padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.net[0](x)
            space = (1, 1) if operation is torch.mul else (12, 12)
            return operation(y, torch.ones(2, 8, *space, dtype=y.dtype).as_subclass(Twice))

    assert_same_step(fused(Beside()), Beside(), small())


@pytest.mark.parametrize("layer", [0, 1])
def test_other_data_before_a_deferred_layer_ran_is_refused(layer: int) -> None:
    class Bank(nn.Module):
        """Several weights by turns in one layer; torch counts no change of ``.data``."""

        def __init__(self) -> None:
            super().__init__()
            self.net = row(padding=1)

        def forward(self, x: Tensor) -> Tensor:
            first, norm = self.net[0], self.net[1]
            y = first(x).clone()
            results = []
            for k in range(2):
                results.append(norm(y) if layer else first(x))
                self.net[layer].weight.data = self.net[layer].weight.data + k + 1
            return results[0] + results[1]

    net = Bank()
    assert torch.isfinite(net(small())).all()
    with pytest.raises(RuntimeError, match="was modified in place"):
        fused(Bank())(small())


@pytest.mark.parametrize("first", ["torch's", "ours"])
def test_a_norm_that_runs_in_both_ways_in_one_step(first: str) -> None:
    """Torch's node keeps the running statistics, and takes them as unchanged by a later batch norm."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            functional = (norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
            y = self.one(x)
            y = F.batch_norm(y, *functional) if first == "torch's" else norm(y)
            y = self.two(y.relu())
            return norm(y) if first == "torch's" else F.batch_norm(y, *functional)

    net = Shared()
    assert_same_step(fused(Shared()), net, small())


@pytest.mark.parametrize("objective", ["fuse", "speed"])
def test_a_class_whose_forward_is_replaced_later(objective: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = row(padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    net, fast = Net(), fastinpaint.accelerate(Net(), objective=objective)
    fast(small())
    net.load_state_dict(fast.state_dict())
    Net.forward = lambda self, x: 2 * self.body(x + 1)  # type: ignore[method-assign]
    assert_same_step(fast, net, small())
