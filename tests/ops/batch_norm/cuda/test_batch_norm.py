"""`batch_norm` on the CUDA kernels: against float64, for parameters of any dtype, and the operators a layer calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinpaint
from fastinpaint.ops.batch_norm import cuda
from tests.ops.batch_norm.cases import (
    check_backward,
    check_forward,
    check_strided_running_statistics,
    check_without_parameters,
    each_channels,
    each_dtype,
    each_momentum,
)


@each_channels
@each_dtype
@each_momentum
def test_forward(channels: int, dtype: torch.dtype, momentum: float | None, device: str) -> None:
    check_forward(cuda, channels, dtype, momentum, device)


@each_channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(channels: int, dtype: torch.dtype, device: str) -> None:
    check_backward(cuda, channels, dtype, device)


def test_without_parameters_and_running_statistics(device: str) -> None:
    check_without_parameters(cuda, device)


def test_running_statistics_with_gaps_are_updated_in_place(device: str) -> None:
    check_strided_running_statistics(cuda, device)


class Calls(TorchDispatchMode):
    """The names of torch's operators in order of their calls, without views and allocations, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1]
        if name not in (
            "detach",
            "split_with_sizes",
            "empty.memory_format",
            "_to_copy",
        ):  # the last of a weight, for a GPU
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_layer_calls_no_small_operators_of_torch(device: str) -> None:
    """Torch's operators for batch norm's vectors, forward and backward, would be thirteen launches per layer."""
    net = nn.Sequential(*(m for _ in range(3) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())))
    fastinpaint.accelerate(net, backend="cuda").to(device)
    x, dy = torch.randn(2, 8, 6, 6, device=device), torch.ones(2, 8, 6, 6, device=device)
    with Calls() as forward:
        y = net(x)
    with Calls() as backward:
        y.backward(dy)
    leaving = ["activation_fwd", "clone"]  # what leaves the fused layers is contiguous where the weights are
    packed = "clone"  # the weight, channels-last, once for both passes
    assert forward.names == [*[packed, "conv_block_fwd", "batch_norm_fwd"] * 3, *leaving]
    assert backward.names == ["activation_bwd", *["batch_norm_bwd", "conv_block_bwd"] * 3]
