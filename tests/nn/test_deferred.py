"""What stays deferred, and what becomes a plain tensor by itself."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint import nn as fnn
from fastinpaint.nn import Deferred, plain
from tests.ops.common import count_convolutions


@pytest.fixture
def block() -> fnn.ConvBNReLU2d:
    torch.manual_seed(0)
    return fnn.ConvBNReLU2d(3, 4, 3, padding=1).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 5, dtype=torch.float64)


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether statistics were wanted, for every convolution that ran."""
    return count_convolutions(monkeypatch)


def stock(block: fnn.ConvBNReLU2d, x: Tensor) -> Tensor:
    return F.relu(
        F.batch_norm(F.conv2d(x, block.conv.weight, padding=1), None, None, block.bn.weight, block.bn.bias, True)
    )


def test_looks_like_a_tensor_without_computing(block: fnn.ConvBNReLU2d, x: Tensor, convolutions: list[bool]) -> None:
    y = block.conv(x)
    assert (y.shape, y.size(1), y.dim(), y.ndim, len(y)) == (torch.Size([2, 4, 6, 5]), 4, 4, 4, 2)
    assert (y.dtype, y.device, y.numel(), y.requires_grad) == (x.dtype, x.device, 240, True)
    assert repr(y) == "Deferred(shape=(2, 4, 6, 5), dtype=torch.float64, device=cpu)"
    assert isinstance(y, Tensor)
    assert convolutions == []


def test_a_convolution_before_batch_norm_runs_once_with_statistics(
    block: fnn.ConvBNReLU2d, x: Tensor, convolutions: list[bool]
) -> None:
    raw = block.conv(x)
    first, second = block.bn(raw), raw.tensor()
    block.bn(raw)
    assert convolutions == [True]
    torch.testing.assert_close(second, F.conv2d(x, block.conv.weight, padding=1))
    torch.testing.assert_close(first.relu().tensor(), stock(block, x))


def test_a_convolution_with_no_batch_norm_runs_without_statistics(
    block: fnn.ConvBNReLU2d, x: Tensor, convolutions: list[bool]
) -> None:
    block.conv(x).tensor()
    assert convolutions == [False]


STAYS = {
    "cat": lambda y, x: torch.cat([y, x], 1),
    "cat from the back": lambda y, x: torch.cat((x, y), dim=-3),
    "concat": lambda y, x: torch.concat([y, y], dim=1),
    "F.relu": lambda y, x: F.relu(y),
    "torch.relu": lambda y, x: torch.relu(y),
    "method relu": lambda y, x: y.relu(),
    "add": lambda y, x: y + x.repeat(1, 2, 1, 1)[:, :4],
    "cat along an axis": lambda y, x: torch.cat([y, x], axis=1),
    "radd": lambda y, x: x.repeat(1, 2, 1, 1)[:, :4] + y,
    "torch.add": lambda y, x: torch.add(y, x.repeat(1, 2, 1, 1)[:, :4]),
    "add of a deferred": lambda y, x: y + y,
}
BECOMES_PLAIN = {
    "interpolate": lambda y, x: F.interpolate(y, scale_factor=2),
    "index": lambda y, x: y[:, 1:3],
    "multiply": lambda y, x: 2 * y,
    "power": lambda y, x: y**2 - 1 / (y + 3),
    "compare": lambda y, x: (y > 0.5).double(),
    "method": lambda y, x: y.mean((2, 3)),
    "attribute": lambda y, x: y.mT,
    "cat over height": lambda y, x: torch.cat([y, y], 2),
    "cat of dtypes": lambda y, x: torch.cat([y, x.float()], 1),
    "broadcast add": lambda y, x: y + torch.ones(4, 1, 1, dtype=y.dtype),
    "add a number": lambda y, x: y + 1,
    "add with alpha": lambda y, x: torch.add(y, y, alpha=2),
    "stack": lambda y, x: torch.stack([y, y]),
    "einsum": lambda y, x: torch.einsum("nchw,nchw->n", y, y),
    "linear": lambda y, x: F.linear(y, torch.ones(2, 5, dtype=y.dtype)),
    "relu of a sum": lambda y, x: F.relu((y + y) - 1),
    "numpy": lambda y, x: torch.from_numpy(np.asarray(y.detach())),
    "numpy's scalar": lambda y, x: np.float64(0.5) * y + np.float32(2) / (y + 1),
    "iterate": lambda y, x: torch.stack([row.sum() for row in y]),
    "tensor op deferred": lambda y, x: torch.ones(4, 6, 5, dtype=y.dtype) * y,
    "out of place on a conv": lambda y, x: F.conv2d(y, torch.ones(2, 4, 3, 3, dtype=y.dtype)),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays_deferred(block: fnn.ConvBNReLU2d, x: Tensor, name: str) -> None:
    result = STAYS[name](block(x), x)
    assert isinstance(result, Deferred)
    torch.testing.assert_close(result.tensor(), STAYS[name](stock(block, x), x))


@pytest.mark.parametrize("name", BECOMES_PLAIN)
def test_becomes_plain(block: fnn.ConvBNReLU2d, x: Tensor, name: str) -> None:
    result = BECOMES_PLAIN[name](block(x), x)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, BECOMES_PLAIN[name](stock(block, x), x))


def test_the_plain_tensor_is_computed_once(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    y = block(x)
    assert y.tensor() is y.tensor()
    assert plain({"a": [y, (y, 3)]}) == {"a": [y.tensor(), (y.tensor(), 3)]}


IN_PLACE = {
    "relu_": lambda y: y.relu_(),
    "F.relu": lambda y: F.relu(y, inplace=True),
    "add_": lambda y: y.add_(torch.ones_like(y)),
    "mul_": lambda y: y.mul_(3),
    "F.leaky_relu": lambda y: F.leaky_relu(y, inplace=True),
    "setitem": lambda y: y.__setitem__((0, 0), 7.0),
    "iadd": lambda y: y.__iadd__(2 * y),
    "imul": lambda y: y.__imul__(2),
    "torch.relu_": lambda y: torch.relu_(y),
    "data": lambda y: y.data.mul_(3),
}


@pytest.mark.parametrize("looked", [False, True], ids=["fresh", "looked at"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_changes_reach_everyone_who_holds_it(
    block: fnn.ConvBNReLU2d, x: Tensor, name: str, looked: bool
) -> None:
    y = block.bn(block.conv(x))
    expected = F.batch_norm(F.conv2d(x, block.conv.weight, padding=1), None, None, block.bn.weight, block.bn.bias, True)
    seen = y.tensor() if looked else None
    IN_PLACE[name](y)
    IN_PLACE[name](expected)
    torch.testing.assert_close(y.tensor(), expected)
    follow = fnn.Conv2d(4, 2, 1).double()
    torch.testing.assert_close(plain(follow(y)), F.conv2d(expected, follow.weight, follow.bias))
    if seen is not None:
        torch.testing.assert_close(seen, expected)


def test_a_tensor_changed_behind_its_back_is_noticed(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    y = block.conv(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="was modified in place before the deferred convolution"):
        y.tensor()


def test_a_weight_changed_behind_its_back_is_noticed(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    y = block.conv(x)
    with torch.no_grad():
        block.conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"a weight of shape \(4, 3, 3, 3\) was modified in place"):
        y.tensor()


CHANGED = {
    "read by a convolution": lambda block, last, x: (block.conv(x), x),
    "read by batch norm": lambda block, last, x: (last(fnn.BatchNorm2d(3).double()(x)), x),
    "concatenated": lambda block, last, x: (torch.cat([block.conv(x), x], 1), x),
    "added": lambda block, last, x: (
        block.bn(block.conv(x[:, :, ::2])) + (addend := x.repeat(1, 2, 1, 1)[:, :4, ::2].clone()),
        addend,
    ),
    "padded": lambda block, last, x: (fnn.ZeroPad2d(1)(x), x),
    "a convolution's own": lambda block, last, x: (block.bn(y := block.conv(x)), y.tensor()),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize("name", CHANGED)
def test_in_inference_mode_a_tensor_may_change_after_it_was_read(
    block: fnn.ConvBNReLU2d, x: Tensor, name: str, training: bool
) -> None:
    """There torch counts no changes, so nothing could be noticed."""
    block.train(training)
    last = fnn.Conv2d(3, 4, 1).double()
    with torch.inference_mode():
        expected = plain(CHANGED[name](block, last, x.clone())[0])
        result, read = CHANGED[name](block, last, x.clone())
        read.zero_()
    torch.testing.assert_close(plain(result), expected)


def test_a_plain_tensor_changed_in_place_counts(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    with torch.no_grad():
        y = block(x)
        y.tensor().mul_(2)
        follow = fnn.Conv2d(4, 2, 1).double()
        torch.testing.assert_close(plain(follow(y)), F.conv2d(2 * stock(block, x), follow.weight, follow.bias))


def test_runs_in_the_grad_mode_it_was_made_in(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    with torch.no_grad():
        without = block(x)
    assert not without.requires_grad
    assert not without.tensor().requires_grad
    follow = fnn.Conv2d(4, 2, 1).double()
    plain(follow(without)).sum().backward()
    assert block.conv.weight.grad is None
    assert follow.weight.grad is not None
    wanted = block(x)
    with torch.no_grad():
        inside = wanted.tensor()
    assert inside.requires_grad


def test_two_readers_share_one_raw_map(block: fnn.ConvBNReLU2d, x: Tensor, convolutions: list[bool]) -> None:
    y, follow = block(x), fnn.Conv2d(4, 4, 1).double()
    loss = (plain(follow(y)) * plain(follow(torch.cat([y], 1)))).sum()
    assert convolutions == [True, False, False]
    expected = F.conv2d(stock(block, x), follow.weight, follow.bias).square().sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, block.conv.weight),
        torch.autograd.grad(expected, block.conv.weight),
        rtol=1e-9,
        atol=1e-12,
    )


WAITING = {
    "a convolution twice": lambda y, follow, relu: [y, y],
    "a convolution and its ReLU": lambda y, follow, relu: [relu(y), y],
    "a convolution and one that reads it": lambda y, follow, relu: [follow(input=y), y],
}


@pytest.mark.parametrize("where", ["a layer", "a row"])
@pytest.mark.parametrize("maps", WAITING)
def test_a_convolution_that_waits_runs_once_for_two_parts(x: Tensor, maps: str, where: str) -> None:
    first, follow, last = (fnn.Conv2d(*channels, 1).double() for channels in ((3, 4), (4, 4), (8, 2)))
    reader = fnn.Sequential(last) if where == "a row" else last
    y = F.conv2d(x, first.weight, first.bias)
    expected = WAITING[maps](y, lambda input: F.conv2d(input, follow.weight, follow.bias), F.relu)
    found = reader(torch.cat(WAITING[maps](first(x), follow, fnn.ReLU()), 1))
    torch.testing.assert_close(plain(found), F.conv2d(torch.cat(expected, 1), last.weight, last.bias))


@pytest.mark.parametrize("order", ["plain first", "convolution first"])
def test_no_gradient_is_found_in_part(block: fnn.ConvBNReLU2d, x: Tensor, order: str) -> None:
    """A tensor beside a layer that reads the parts has a part of the gradient only."""
    y, follow = block(x), fnn.Conv2d(4, 4, 1).double()
    losses = [lambda: y.square().sum(), lambda: plain(follow(y)).square().sum()]
    loss = sum(find() for find in (losses if order == "plain first" else reversed(losses)))
    with pytest.raises(RuntimeError, match="would lack the part that other layers give it"):
        torch.autograd.grad(loss, y)


def test_saves_copies_and_pickles_as_its_tensor(block: fnn.ConvBNReLU2d, x: Tensor) -> None:
    with torch.no_grad():
        y = block(x)
    file = io.BytesIO()
    torch.save({"features": y}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["features"], y.tensor())
    assert torch.equal(copy.deepcopy(y), y.tensor())
