"""The tier "least", which computes every convolution again in backward, and first layers, which every tier does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastinpaint
from fastinpaint.acceleration.kept import KeptBytes, kept_bytes
from fastinpaint.nn import pending_conv
from tests.accelerate.nets import AnisotropicUNet
from tests.accelerate.slow_layers import clock
from tests.ops.common import count_convolutions

__all__ = ["clock"]  # a fixture


def layer(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


class Block(nn.Module):
    """A residual block: three convolutions, the middle one depthwise, and a sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = nn.Sequential(*layer(channels, 2 * channels, 1), *layer(2 * channels, 2 * channels, groups=2 * channels))
        self.body = nn.Sequential(*wide, nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def residual() -> nn.Module:
    blocks = (Block(16) for _ in range(3))
    return nn.Sequential(*layer(3, 16, 7, 2), nn.MaxPool2d(2), *blocks, nn.Conv2d(16, 300, 1), nn.Conv2d(300, 4, 3))


class Twice(nn.Module):
    """A module that is used two times, and dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Sequential(*layer(3, 16)), nn.Sequential(*layer(16, 16))
        self.drop, self.last = nn.Dropout(0.5), nn.ConvTranspose2d(16, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.drop(self.shared(self.first(x)))))


def chain() -> nn.Module:
    """Convolutions of 384 channels: 3456 multiply-adds a value, which the tier "low" does not compute again."""
    return nn.Sequential(*layer(4, 384), *layer(384, 384), *layer(384, 384), nn.Conv2d(384, 2, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual 2D": (residual, (2, 3, 32, 32)),
    "3D U-Net": (AnisotropicUNet, (1, 1, 4, 16, 16)),
    "chain": (chain, (1, 4, 12, 12)),
    "shared": (Twice, (2, 3, 16, 16)),
}


def net_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = NETS[name]
    return build().train(), torch.randn(shape)


def step(net: nn.Module, x: Tensor, tier: str, autocast: bool = False) -> list[Tensor]:
    """Result, gradients and buffers of a copy's two steps in a tier."""
    net = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse", memory=tier)
    torch.manual_seed(1)
    for _ in range(2):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            result = net(x)
        result.float().square().mean().backward()
    grads = [p.grad for p in net.parameters()]
    assert None not in grads
    return [result.detach(), *grads, *net.buffers()]  # type: ignore[list-item]


@pytest.mark.parametrize("tier", ["low", "least"])
@pytest.mark.parametrize("mode", ["float32", "autocast", "evaluation"])
@pytest.mark.parametrize("name", NETS)
def test_every_tier_gives_the_same_bits(name: str, mode: str, tier: str) -> None:
    """So statistics are updated once a step, and dropout draws once."""
    net, x = net_of(name)
    if mode == "evaluation":
        net(x)
        net.eval()
    expected, found = (step(net, x, each, mode == "autocast") for each in ("default", tier))
    assert len(found) == len(expected)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)


def test_running_statistics_are_updated_once_a_step() -> None:
    net, x = net_of("chain")
    ours = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse", memory="least")
    for each in (net, ours):
        each(x).square().mean().backward()
    assert {int(b) for b in ours.buffers() if b.dtype == torch.int64} == {1}
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, net.get_buffer(name), rtol=1e-5, atol=1e-6)


def kept(net: nn.Module, x: Tensor, tier: str) -> int:
    net = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse", memory=tier)
    return kept_bytes(lambda: net(x).square().mean(), net.parameters())


def test_least_keeps_the_input_alone_of_all_maps() -> None:
    net, x = net_of("chain")
    maps, vectors = 384 * 12 * 12 * 4, 9 * 3 * 384 * 4  # statistics, and batch norm's vectors
    result = 2 * 12 * 12 * 4  # what the loss keeps
    assert kept(net, x, "low") >= 2 * maps  # their convolutions are too dear
    assert kept(net, x, "least") <= x.nbytes + result + vectors


@pytest.mark.parametrize("name", NETS)
def test_least_keeps_a_fraction_of_low(name: str) -> None:
    net, x = net_of(name)
    sizes = [kept(net, x, tier) for tier in ("default", "low", "least")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.5 * sizes[0]


def test_least_computes_each_convolution_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_of("chain")
    net = fastinpaint.accelerate(net, objective="fuse", memory="least")
    ran = count_convolutions(monkeypatch)
    loss = net(x).square().mean()
    assert len(ran) == 4
    loss.backward()
    assert len(ran) == 4 + 3  # no layer reads the last one's result


def test_a_long_chain_keeps_a_map_every_so_often() -> None:
    """Backward computes at most `MOST_STEPS` maps again at a time."""
    torch.manual_seed(0)
    net = nn.Sequential(*(module for _ in range(60) for module in layer(8, 8)))
    x = torch.randn(2, 8, 16, 16)
    fastinpaint.accelerate(net, objective="fuse", memory="least")
    maps = kept_bytes(lambda: net(x).sum(), net.parameters()) / x.nbytes
    assert 3 <= maps <= 4.5  # the input, two maps in between, and vectors
    peak = KeptBytes(net.parameters())
    with peak.counting():
        with peak.saving():
            loss = net(x).sum()
        loss.backward()
    assert peak.most <= 30 * x.nbytes


def test_the_default_tier_computes_a_cheap_first_layer_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(*layer(3, 64, 7, 2), *layer(64, 8)), torch.randn(2, 3, 96, 96)
    first, second = 64 * 48 * 48 * 2 * 4, 8 * 48 * 48 * 2 * 4
    assert first >= 4 * pending_conv.FIRST_VALUES
    expected = x.nbytes + 2 * second  # the second layer's y, and what the loss reads
    assert expected <= kept(net, x, "default") <= expected + 2**14
    assert kept(net, x.clone().requires_grad_(), "default") >= expected + first
    assert kept(net, x[:1, :, :48, :48].clone(), "default") >= first // 8  # its map is small
    forgetful = step(net, x, "default")
    monkeypatch.setattr(pending_conv, "FIRST_VALUES", 1 << 40)
    assert kept(net, x, "default") >= expected + first
    for ours, right in zip(forgetful, step(net, x, "default"), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.3, 0.1])
@pytest.mark.parametrize("name", ["residual 2D", "3D U-Net", "chain"])
def test_a_budget_bounds_what_is_kept_between_forward_and_backward(name: str, share: float) -> None:
    net, x = net_of(name)
    stock = kept_bytes(lambda: net(x).square().mean(), net.parameters())
    fastinpaint.accelerate(net, example=x, memory=share)
    ours = kept_bytes(lambda: net(x).square().mean(), net.parameters())
    report = net.fastinpaint_report
    if report.notes:  # a small network's vectors, results and inputs alone may take more
        assert ours == pytest.approx(report.after["kept_bytes"], rel=0.1)
        fewest = kept(net_of(name)[0], x, "least")
        assert ours <= 1.01 * fewest
    else:
        assert ours <= 1.01 * share * stock
    assert report.after["held_bytes"] >= report.after["kept_bytes"]
