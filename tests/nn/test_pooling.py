"""Max and average pooling of deferred activations: torch's results and gradients, with fewer bytes kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastinpaint
from fastinpaint.acceleration.kept import kept_bytes
from fastinpaint.nn.pooling import AveragePool, GlobalAverage, MaxPool

WINDOWS: dict[str, dict[str, Any]] = {
    "2": {"kernel_size": 2},
    "3, stride 2, padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "dilated": {"kernel_size": 2, "stride": 1, "dilation": 2},
}


def network(pool: nn.Module, axes: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if axes == 2 else (nn.Conv3d, nn.BatchNorm3d)
    return nn.Sequential(conv(2, 4, 3, padding=1), norm(4), nn.ReLU(), pool, conv(4, 3, 1)).double()


def results(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    result = net(x)
    return [result, *torch.autograd.grad(result.square().sum(), [x, *net.parameters()])]


def agree(net: nn.Module, x: Tensor) -> None:
    """The fused network gives the stock one's results and gradients."""
    expected = results(copy.deepcopy(net), x)
    fastinpaint.accelerate(net, objective="fuse")
    for ours, right in zip(results(net, x), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the own node pools."""
    seen, right = [], MaxPool.forward

    def noted(ctx: Any, x: Tensor, window: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return right(ctx, x, window)

    monkeypatch.setattr(MaxPool, "forward", staticmethod(noted))
    return seen


@pytest.fixture
def averaged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the own node takes averages of."""
    seen, right = [], AveragePool.forward

    def noted(ctx: Any, x: Tensor, window: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return right(ctx, x, window)

    monkeypatch.setattr(AveragePool, "forward", staticmethod(noted))
    return seen


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_2d(window: dict[str, Any], channels_last: bool, pooled: list[tuple[int, ...]]) -> None:
    x = torch.randn(2, 2, 9, 11, dtype=torch.float64)
    agree(network(nn.MaxPool2d(**window)), x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    assert pooled == [(2, 4, 9, 11)]


def test_3d(pooled: list[tuple[int, ...]]) -> None:
    agree(network(nn.MaxPool3d(3, 2, 1), axes=3), torch.randn(1, 2, 5, 6, 7, dtype=torch.float64))
    assert pooled == [(1, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("size", "kept"), [(150, torch.int16), (250, torch.int16), (260, torch.int32)], ids=["15 bits", "16 bits", "more"]
)
def test_positions_of_large_maps(size: int, kept: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions above 32767 are negative numbers of 16 bits."""
    seen: list[torch.dtype] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.dtype) or t, lambda t: t):
        x = torch.randn(1, 1, size, size, requires_grad=True)
        ours = MaxPool.apply(x, (2, 2, 0, 1, False))
    assert seen == [kept]
    right = torch.autograd.grad(F.max_pool2d(x, 2).square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(ours.square().sum(), x)[0], right, rtol=0, atol=0)


def test_the_map_is_not_kept() -> None:
    """Of a map of 16 units: y is kept, positions of 2 bytes, and the pooled map; stock keeps the map and 8 bytes."""
    net, x = network(nn.MaxPool2d(2)).float(), torch.randn(2, 2, 32, 32)
    unit = 4 * x.nbytes // 2 // 16
    before = kept_bytes(lambda: net(x).sum(), net.parameters())
    fastinpaint.accelerate(net, objective="fuse")
    after = kept_bytes(lambda: net(x).sum(), net.parameters())
    assert before >= (16 + 16 + 8 + 4) * unit
    assert after <= (16 + 2 + 4) * unit + x.nbytes + 512


def test_second_derivatives() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: MaxPool.apply(x, (3, 2, 1, 1, False)), x)
    assert torch.autograd.gradgradcheck(lambda x: MaxPool.apply(x, (3, 2, 1, 1, False)).square(), x)


class Functional(nn.Module):
    """Pools by a function, and reads the map once more."""

    def __init__(self, indices: bool) -> None:
        super().__init__()
        self.first, self.indices = network(nn.MaxPool2d(2))[:3], indices

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.indices:
            found, positions = F.max_pool2d(x, 2, return_indices=True)
            return found + F.max_unpool2d(found, positions, 2).mean()
        return F.max_pool2d(x, (3, 3), 2, padding=1) + torch.max_pool2d(x, 3, 2, 1) + x.mean()


def test_functions_too(pooled: list[tuple[int, ...]]) -> None:
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    agree(Functional(False), x)
    assert len(pooled) == 2
    agree(Functional(True), x)
    assert len(pooled) == 2  # torch's own, where somebody asks for the positions


def test_observers_see_plain_tensors(pooled: list[tuple[int, ...]]) -> None:
    net, seen = network(nn.MaxPool2d(2)), []
    fastinpaint.accelerate(net, objective="fuse")
    net[3].register_forward_pre_hook(lambda module, args: seen.append(type(args[0])))
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    net(x)
    assert seen == [Tensor]
    with torch.no_grad():
        net(x)
    assert pooled == []


def test_pooling_under_a_compiler_and_functorch() -> None:
    net, x = network(nn.MaxPool2d(2)).eval(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    right = net(x)
    fastinpaint.accelerate(net, objective="fuse")
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), right)
    torch.testing.assert_close(torch.vmap(net)(x[:, None])[:, 0], right)


AVERAGES: dict[str, dict[str, Any]] = {
    "2": {"kernel_size": 2},
    "3, stride 2, padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "ceil, without padding": {
        "kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "ceil_mode": True, "count_include_pad": False,
    },
    "another divisor": {"kernel_size": 2, "stride": 1, "divisor_override": 3},
}  # fmt: skip


@pytest.mark.parametrize("window", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_averages(window: dict[str, Any], channels_last: bool, averaged: list[tuple[int, ...]]) -> None:
    x = torch.randn(2, 2, 9, 11, dtype=torch.float64)
    agree(network(nn.AvgPool2d(**window)), x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    assert averaged == [(2, 4, 9, 11)]


def test_averages_of_volumes(averaged: list[tuple[int, ...]]) -> None:
    agree(network(nn.AvgPool3d(3, 2, 1), axes=3), torch.randn(1, 2, 5, 6, 7, dtype=torch.float64))
    assert averaged == [(1, 4, 5, 6, 7)]


def test_an_average_keeps_no_map() -> None:
    """Of a map of 16 units: y is kept, and the pooled map, which the convolution after it reads."""
    net, x = network(nn.AvgPool2d(2)).float(), torch.randn(2, 2, 32, 32)
    unit = 4 * x.nbytes // 2 // 16
    before = kept_bytes(lambda: net(x).sum(), net.parameters())
    fastinpaint.accelerate(net, objective="fuse")
    after = kept_bytes(lambda: net(x).sum(), net.parameters())
    assert before >= (16 + 16 + 4) * unit
    assert after <= (16 + 4) * unit + x.nbytes + 512


def test_second_derivatives_of_averages() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    window = (3, 2, 1, False, True, None)
    assert torch.autograd.gradcheck(lambda x: AveragePool.apply(x, window), x)
    assert torch.autograd.gradgradcheck(lambda x: AveragePool.apply(x, window).square(), x)


@pytest.fixture
def globally(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the own node takes averages of whole maps of."""
    seen, right = [], GlobalAverage.forward

    def noted(ctx: Any, average: Any, x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return right(ctx, average, x)

    monkeypatch.setattr(GlobalAverage, "forward", staticmethod(noted))
    return seen


class Squeezed(nn.Module):
    """A map and its mean over space, read together as squeeze-and-excitation does, and the mean alone."""

    def __init__(self, mean: Any, axes: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if axes == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.body = nn.Sequential(conv(2, 4, 3, padding=1), norm(4), nn.SiLU())
        self.mean, self.axes = mean, axes

    def forward(self, x: Tensor) -> Tensor:
        a = self.body(x)
        mean = self.mean(a)
        space = (1,) * self.axes
        return a * mean.reshape(*mean.shape[:2], *space).sigmoid() + mean.flatten().sum()


MEANS: dict[str, tuple[int, Any]] = {
    "module": (2, nn.AdaptiveAvgPool2d(1)),
    "module, a pair": (2, nn.AdaptiveAvgPool2d((1, 1))),
    "function": (2, lambda a: F.adaptive_avg_pool2d(a, 1)),
    "mean": (2, lambda a: a.mean((2, 3), keepdim=True)),
    "mean without axes": (2, lambda a: torch.mean(a, dim=[-1, -2])),
    "volume": (3, nn.AdaptiveAvgPool3d(1)),
    "mean of a volume": (3, lambda a: a.mean((2, 3, 4))),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_averages_of_whole_maps(name: str, channels_last: bool, globally: list[tuple[int, ...]]) -> None:
    axes, mean = MEANS[name]
    torch.manual_seed(0)
    x = torch.randn(3, 2, *(5, 6, 7)[:axes], dtype=torch.float64)
    layout = torch.channels_last if axes == 2 else torch.channels_last_3d
    agree(Squeezed(mean, axes).double(), x.to(memory_format=layout) if channels_last else x)
    assert globally == [(3, 4, *(5, 6, 7)[:axes])]


OTHER_MEANS: dict[str, Any] = {
    "two by two": nn.AdaptiveAvgPool2d(2),
    "as it is": nn.AdaptiveAvgPool2d((None, 1)),
    "one axis": lambda a: a.mean(3, keepdim=True),
    "of channels": lambda a: a.mean((1, 2)),
    "of all": lambda a: a.mean(),
    "by no axis": lambda a: a.mean(()),
    "in another dtype": lambda a: a.mean((2, 3), dtype=torch.float64),
}


class Averaged(nn.Module):
    """Some average of a deferred activation, inside the model."""

    def __init__(self, average: Any) -> None:
        super().__init__()
        self.body, self.average = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()), average

    def forward(self, x: Tensor) -> Tensor:
        return self.average(self.body(x)).square()


@pytest.mark.parametrize("name", OTHER_MEANS)
def test_other_averages_are_torchs(name: str, globally: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    agree(Averaged(OTHER_MEANS[name]).double(), torch.randn(3, 2, 5, 6, dtype=torch.float64))
    assert globally == []


def test_the_gradient_of_a_global_average_is_not_written_out() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    mean = GlobalAverage.apply(lambda a: a.mean((2, 3)), x)
    (dx,) = torch.autograd.grad(mean, x, torch.randn(2, 3))
    assert dx.shape == x.shape
    assert dx.untyped_storage().nbytes() == 4 * 2 * 3


def test_second_derivatives_of_global_averages() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)

    def squared(x: Tensor) -> Tensor:
        return GlobalAverage.apply(lambda a: F.adaptive_avg_pool2d(a, 1), x.square())

    assert torch.autograd.gradcheck(squared, (x,))
    assert torch.autograd.gradgradcheck(squared, (x,))
