"""Where torch writes past a gradient: a 1x1 convolution's with a stride that reads few channels, channels-last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration import search
from fastinpaint.acceleration.plan import DEFAULT, Plan
from fastinpaint.acceleration.swap import swap
from tests.accelerate.slow_layers import clock

__all__ = ["clock"]  # a fixture


@pytest.mark.parametrize(("stride", "tried"), [(2, [False]), (1, [False, True])])
def test_channels_last_is_not_tried_where_torch_would_write_past_a_gradient(
    stride: int, tried: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a 1x1 convolution of few channels with a stride, as RepVGG's first one."""
    right, found = search._stock, []
    monkeypatch.setattr(search, "_stock", lambda runner, flag: (found.append(flag), right(runner, flag))[1])
    net = nn.Sequential(nn.Conv2d(3, 8, 1, stride), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    report = fastinpaint.accelerate(net, example=torch.randn(2, 3, 12, 12)).fastinpaint_report
    assert found == tried
    assert any("torch writes past a gradient" in note for note in report.notes) == (stride == 2)


@pytest.mark.parametrize(("stride", "contiguous"), [(2, True), (1, False)])
def test_a_stock_layer_that_torch_would_write_past_reads_contiguous_maps(stride: int, contiguous: bool) -> None:
    given: list[Tensor] = []
    net = nn.Sequential(nn.Conv2d(16, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1, stride))
    swap(net, Plan(fused={"0": DEFAULT, "1": DEFAULT}), "cpu")
    net[3].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    net(torch.randn(2, 16, 14, 14))
    assert given[0].is_contiguous() == contiguous
