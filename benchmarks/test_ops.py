"""The memory-bound ops: activation, and batch norm with ReLU, beside torch's own."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from benchmarks import cudnn_graph
from fastinpaint import accelerate
from fastinpaint.bench.measure import kept_bytes
from fastinpaint.ops.activation import activation
from fastinpaint.ops.types import Source

pytestmark = pytest.mark.in_turns
BY_TORCH = {"eager": lambda function: function, "compile": lambda function: compiled(function)}
CHANNELS = 128  # of CombCN's second layer, whose map is used
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


def a_map(workload) -> torch.Tensor:
    """A map of CombCN's second layer that requires a gradient."""
    side = workload.size // 2
    x = torch.randn(workload.frames, CHANNELS, side, side, device=workload.device, dtype=workload.torch_dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def passes_of(forward, wanted, upstream):
    """Forward and backward as separate callables, and the bytes kept between them."""
    result = forward()
    return {
        "forward": torch.no_grad()(forward),
        "backward": lambda: torch.autograd.grad(result, wanted, upstream, retain_graph=True),
    }, kept_bytes(forward, [])


def first_line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def plain_activation(x, mean, scale, shift):
    """The activation by torch's own ops."""
    view = (1, -1, 1, 1)
    return torch.relu((x - mean.view(view)) * scale.view(view) + shift.view(view)).to(x.dtype)


@functools.cache
def compiled(function):
    """The function compiled by torch.compile, cached for all turns."""
    return torch.compile(function, mode="default")


@functools.cache
def stock_norm_relu(device: str) -> nn.Module:
    """Batch norm and ReLU; one module for all turns, so that torch.compile compiles it once."""
    return nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU()).to(device)


@pytest.mark.parametrize("contender", ["eager", "compile", "fastinpaint"])
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_activation(contender, which, workload, measure):
    """relu((x - mean) * scale + shift): batch norm with known statistics, and ReLU."""
    x = a_map(workload)
    mean, scale, shift = (torch.randn(CHANNELS, device=workload.device, requires_grad=True) for _ in range(3))

    def forward() -> torch.Tensor:
        if contender != "fastinpaint":
            return BY_TORCH[contender](plain_activation)(x, mean, scale, shift)
        return activation([Source(x, mean, scale, shift, relu=True)])

    close = TOLERANCE[workload.torch_dtype]
    torch.testing.assert_close(forward(), plain_activation(x, mean, scale, shift), rtol=close, atol=close)
    passes, kept = passes_of(forward, (x, mean, scale, shift), torch.randn_like(x))
    maps = 2 if which == "forward" else 3  # x to a; x and da to dx
    measure(passes[which], f"activation {which}", contender, moved=maps * x.nbytes, kind="op", kept_bytes=kept)


@pytest.mark.parametrize("contender", ["eager", "compile", "cudnn graph", "fastinpaint"])
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_norm_relu(contender, which, workload, measure, leave_out):
    """Batch norm in training mode, including its statistics, and ReLU."""
    x, truth = a_map(workload), stock_norm_relu(workload.device)
    if contender == "fastinpaint":
        forward = accelerate(nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU()).to(workload.device), objective="fuse")
    else:
        forward = compiled(truth) if contender == "compile" else truth
    if contender == "cudnn graph":
        reason = cudnn_graph.why_not(x.device) or ("only its forward is written here." if which == "backward" else None)
        if reason is not None:
            leave_out(f"norm_relu {which}", contender, reason)
        try:
            run = cudnn_graph.norm_relu(x.detach(), *(p.detach() for p in truth[0].parameters()))
        except Exception as error:  # it raises many types, also from its libraries and lazy imports
            leave_out(f"norm_relu {which}", contender, f"cuDNN does not build it here: {first_line(error)}")
        passes, kept = {"forward": run}, 0
    else:
        passes, kept = passes_of(lambda: forward(x), (x, *forward.parameters()), torch.randn_like(x))
    if which == "forward":
        close = TOLERANCE[workload.torch_dtype]
        torch.testing.assert_close(passes["forward"](), truth(x).detach(), rtol=close, atol=close)
    maps = 3 if which == "forward" else 5  # x twice, for its statistics and to a; x and da twice, and dx
    measure(passes[which], f"norm_relu {which}", contender, moved=maps * x.nbytes, kind="op", kept_bytes=kept)
