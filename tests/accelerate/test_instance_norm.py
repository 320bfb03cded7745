"""Instance norm of one sample: torch's own takes a wrong gradient from a channels-last one (seen in 2.13)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastinpaint
from fastinpaint.acceleration import layout
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.swap import swap, unswap
from tests.accelerate.nets import assert_same_step


class Adaptive(nn.Module):
    """As AdaIN: a function in place of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=x.new_tensor([2.0, 3.0, 0.5, 1.0])) * 1.5


class Scaled(nn.InstanceNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: nn.InstanceNorm2d(4, affine=True),
    "running statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "subclass": lambda: Scaled(4),
    "function": Adaptive,
}


def net_with(norm: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm(), *last).double()


def sample() -> Tensor:
    return torch.randn(1, 3, 7, 6, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_one_sample(norm: str) -> None:
    net = net_with(NORMS[norm])
    assert_same_step(fastinpaint.accelerate(copy.deepcopy(net), objective="fuse"), net, sample())


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_one_sample_in_the_stock_model_as_channels_last(norm: str) -> None:
    net, x = net_with(NORMS[norm]), sample()
    other = copy.deepcopy(net)
    layout.set_weights(other, True)
    swap(other, Plan(True), "auto")
    assert_same_step(other, net, x)
    unswap(other)
    assert not other[1]._forward_hooks


@pytest.mark.parametrize("how", ["fused", "stock, channels-last"])
@pytest.mark.parametrize("axes", [2, 3])
def test_gradients_of_one_sample_without_a_batch(axes: int, how: str) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if axes == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        found = nn.Sequential(conv(3, 4, 3, padding=1), norm(4), nn.SiLU(), conv(4, 4, 3)).double()
        found.register_buffer("some", torch.ones(1))  # batch norm takes no input without a batch
        return found

    ours = net()
    if how == "fused":
        fastinpaint.accelerate(ours, objective="fuse")
    else:
        layout.set_weights(ours, True)
        swap(ours, Plan(True), "auto")
    assert_same_step(ours, net(), torch.randn(3, *(7, 6, 5)[:axes], dtype=torch.float64))


class Each(nn.Module):
    """Batch norm of each picture alone: torch's own is wrong for such a view and a contiguous gradient (2.13)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.norm(each[None] * 1.5).flatten(2) for each in self.conv(x)]
        return torch.cat([row.contiguous() for row in rows])


def test_batch_norm_of_one_sample_by_the_rules() -> None:
    net = Each().double()
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="speed")
    assert_same_step(fast, net, torch.randn(2, 3, 7, 6, dtype=torch.float64))
    assert "norm" in fast.fastinpaint_report.swapped
