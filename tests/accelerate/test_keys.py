"""What a choice depends on: it is measured again where a call's key is new."""

from __future__ import annotations

import copy
import pickle
import threading
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastinpaint
from fastinpaint.acceleration import keys, tuner
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.keys import Key, Modes
from tests.accelerate.slow_layers import clock, image, network, stock_is_slow
from tests.accelerate.test_measuring import searches

__all__ = ["clock", "stock_is_slow"]  # fixtures


def frozen(net: nn.Module) -> None:
    net[0].requires_grad_(False)


def partly_evaluated(net: nn.Module) -> None:
    net[1].eval()


@pytest.mark.parametrize("change", [frozen, partly_evaluated])
def test_a_change_of_modes_is_measured_once(
    change: Callable[[nn.Module], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = searches(monkeypatch)
    net = fastinpaint.accelerate(network(), example=image())
    for _ in range(2):
        net.requires_grad_().train()
        net(image())
        change(net)
        net(image())
        net(image())
    assert len(seen) == 2
    assert len(vars(net)[tuner.TUNER].plans) == 2


def test_autocast_is_measured_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    net = fastinpaint.accelerate(network(), example=image())
    for _ in range(2):
        net(image())
        with torch.autocast("cpu", torch.bfloat16):
            net(image())
    assert len(seen) == 2


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("change", [frozen, partly_evaluated])
def test_what_is_frozen_after_the_choice_computes_as_before(change: Callable[[nn.Module], None]) -> None:
    x, found = image().double(), []
    for ours in (True, False):
        net = network().double()
        net[6].p = 0.0
        if ours:
            fastinpaint.accelerate(net, example=x)
        net(x)
        change(net)
        result = net(x)
        result.square().sum().backward()
        found.append([result, *net.buffers(), *(p.grad for p in net.parameters())])
    for mine, expected in zip(*found, strict=True):
        assert (mine is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def test_modes_are_those_of_the_model_as_it_is_now() -> None:
    net, modes = network(), Modes()
    assert modes.of(net, True) == (b"\1" * 9, b"\1" * 10)
    assert modes.of(net, False) == (b"\1" * 9, b"")
    net[3].bias.requires_grad = False
    net[1].eval()
    assert modes.of(net, True) == (b"\1\1\0" + b"\1" * 6, b"\1\1\1\1\1\0\1\1\1\1")
    net[1] = nn.Identity()  # replaced
    assert modes.of(net, True) == (b"\1" * 9, b"\1\1\1\0\1\1\1\1")
    net.append(nn.Linear(2, 2).requires_grad_(False))
    assert modes.of(net, True) == (b"\1" * 10, b"\1\1\1\0\1\1\1\1\0\0")
    net[0].weight = nn.Parameter(net[0].weight.detach(), requires_grad=False)
    assert modes.of(net, True)[1][0] == 0
    parametrize.register_parametrization(net[0], "weight", nn.Identity())
    assert modes.of(net, True) == (b"\1" * 13, b"\1\0\1\0\1\1\1\1\0\0")
    assert modes.of(network().eval(), True)[0] == b"\0" * 9  # another model


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_reads_its_own_modes(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = fastinpaint.accelerate(network(), example=image())
    net(image())
    other = copied(net)
    frozen(other)
    other(image())
    assert [len(vars(one)[tuner.TUNER].plans) for one in (net, other)] == [1, 2]


def key(height: int = 8, batch: int = 2, training: bytes = b"\1\1", gradients: bytes = b"\1", threads: int = 1) -> Key:
    maps = ((torch.Size([batch, 3, height, 8]), torch.float32, torch.device("cpu"), False),)
    return Key(maps, training, gradients, True, None, threads)


def test_the_plan_of_a_larger_batch_is_used() -> None:
    known = {key(batch=4): "four", key(height=9): "other"}
    assert keys.nearest(known, key()) == "four"
    assert keys.nearest(known, key(batch=5)) is None
    assert keys.nearest(known, key(threads=2)) is None
    assert keys.nearest(known, key(gradients=b"\0")) is None


def test_once_many_calls_are_known_the_nearest_is_used() -> None:
    shapes = {key(height=8 + i): i for i in range(keys.MOST_ALIKE)}
    assert keys.nearest(shapes, key(height=30)) == keys.MOST_ALIKE - 1
    shapes.pop(key(height=8))
    assert keys.nearest(shapes, key(height=30)) is None
    patterns = {key(gradients=bytes([i >> 2 & 1, i >> 1 & 1, i & 1])): i for i in range(keys.MOST_ALIKE)}
    assert keys.nearest(patterns, key(training=b"\0\1", gradients=b"\0\1\1")) == 3
    assert keys.nearest(patterns, key(height=9, gradients=b"\1")) is None


def test_a_copy_or_a_fork_waits_for_no_thread_of_its_origin() -> None:
    net = fastinpaint.accelerate(network(), example=image())
    own = vars(net)[tuner.TUNER]
    thread = threading.Thread(target=lambda: setattr(own, "changing", threading.get_ident()))
    thread.start()
    thread.join()
    assert own.changing is not None
    assert own.free()  # the thread is gone, as all others are in a forked process
    assert vars(copy.deepcopy(net))[tuner.TUNER].changing is None


def test_a_change_of_what_forward_calls_is_measured_again() -> None:
    """Of a helper method, or of a function that a method calls by its name; other code keeps the choice."""

    def key(helper: Callable[..., Tensor], function: Callable[..., Tensor]) -> str:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.helper(x)

        Net.helper = helper  # type: ignore[attr-defined]
        calling = types.FunctionType(calls.__code__, {"function": function})
        Net.other = calling  # type: ignore[attr-defined]
        return keys.problem(Net(), Example((torch.ones(1, 3, 8, 8),), {}), True, ())

    def calls(self: nn.Module, x: Tensor) -> Tensor:
        return function(x)  # type: ignore[name-defined]  # noqa: F821

    def one(self: nn.Module, x: Tensor) -> Tensor:
        return self.conv(x)

    def two(self: nn.Module, x: Tensor) -> Tensor:
        return next(self.conv(each) for each in (2 * x,))

    def three(self: nn.Module, x: Tensor) -> Tensor:
        return next(self.conv(each) for each in (3 * x,))

    known = [key(*each) for each in ((one, two), (one, two), (one, three), (two, one), (three, one))]
    assert known[0] == known[1]
    assert len(set(known)) == 4
