"""`batch_norm` in Triton against the reference, interpreted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.batch_norm import triton as ours
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.testing import interpreter
from tests.ops.batch_norm.cases import (
    check_backward,
    check_forward,
    check_strided_running_statistics,
    check_without_parameters,
    each_channels,
    each_dtype,
    each_momentum,
)
from tests.ops.triton.cases import DEVICE


@each_channels
@each_dtype
@each_momentum
def test_forward(channels: int, dtype: torch.dtype, momentum: float | None) -> None:
    check_forward(ours, channels, dtype, momentum, DEVICE)


@each_channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(channels: int, dtype: torch.dtype) -> None:
    check_backward(ours, channels, dtype, DEVICE)


def test_without_parameters_and_running_statistics() -> None:
    check_without_parameters(ours, DEVICE)


def test_running_statistics_with_gaps_are_updated_in_place() -> None:
    check_strided_running_statistics(ours, DEVICE)


@pytest.mark.skipif(not triton_support.INTERPRETING, reason="launches are counted where they are interpreted")
def test_one_launch_a_layer_each_way() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 4, 1))
    fastinpaint.accelerate(net, backend="triton")
    with interpreter.launches() as names:
        net(torch.randn(2, 8, 4, 4)).sum().backward()
    assert [name for name in names if name.startswith("batch_norm")] == [
        "batch_norm_fwd_kernel",
        "batch_norm_bwd_kernel",
    ]
