"""Depthwise and grouped convolutions of known networks, with batch norm and ReLU in front, beside plain PyTorch.

The sizes are those of ImageNet's networks: depthwise of MobileNetV2, EfficientNet and ConvNeXt, groups of ResNeXt and
RegNet.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

from benchmarks.test_ops import passes_of
from fastinpaint.bench.contenders import BACKENDS
from fastinpaint.ops.conv_block import conv_block
from fastinpaint.ops.types import Source

pytestmark = pytest.mark.in_turns


class Case(NamedTuple):
    """A 2D convolution with as many channels out as in, padded by half its kernel."""

    channels: int
    groups: int
    size: int
    kernel: int
    stride: int = 1


CASES = {
    "depthwise 3x3": Case(144, 144, 56, 3),
    "depthwise 3x3, stride 2": Case(144, 144, 56, 3, 2),
    "depthwise 5x5": Case(240, 240, 28, 5),
    "depthwise 7x7": Case(96, 96, 56, 7),
    "groups of 4": Case(128, 32, 56, 3),
    "groups of 16": Case(512, 32, 14, 3),
    "groups of 24": Case(408, 17, 14, 3),
}
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def plain(x, mean, scale, shift, weight, case: Case):
    """The same by torch's own ops."""
    view = (1, -1, 1, 1)
    a = torch.relu((x - mean.view(view)) * scale.view(view) + shift.view(view)).to(x.dtype)
    return F.conv2d(a, weight, None, case.stride, case.kernel // 2, 1, case.groups)


@pytest.mark.parametrize("contender", ["eager channels-last", "fastinpaint", *BACKENDS])
@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "_"))
def test_groups(name, which, contender, workload, measure, leave_out):
    """Compared with plain PyTorch in the same dtype, then timed; forward without statistics."""
    case, torch_dtype = CASES[name], workload.torch_dtype
    torch.manual_seed(0)
    size = min(case.size, workload.size)
    x = torch.randn(workload.frames, case.channels, size, size, device=workload.device).to(torch_dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    vectors = [torch.randn(case.channels, device=workload.device, requires_grad=True) for _ in range(3)]
    kernel = (case.kernel, case.kernel)
    weight = torch.randn(case.channels, case.channels // case.groups, *kernel, device=workload.device)
    weight = (weight / case.kernel).to(torch_dtype).requires_grad_()

    def forward() -> torch.Tensor:
        if contender == "eager channels-last":
            return plain(x, *vectors, weight, case)
        backend, padding = BACKENDS.get(contender, workload.backend), case.kernel // 2
        sources = [Source(x, *vectors, relu=True)]
        return conv_block(sources, weight, stride=case.stride, padding=padding, groups=case.groups, backend=backend)

    wanted = (x, *vectors, weight)
    truth = plain(x, *vectors, weight, case)
    try:
        found = forward()
    except NotImplementedError as error:
        leave_out(f"{name} {which}", contender, str(error))
    dy = torch.randn_like(truth)
    gradients = torch.autograd.grad(found, wanted, dy), torch.autograd.grad(truth, wanted, dy)
    for ours, theirs in zip((found, *gradients[0]), (truth, *gradients[1]), strict=True):
        ours, theirs = ours.detach().float(), theirs.detach().float()
        error = float((ours - theirs).norm() / theirs.norm())
        assert error < CLOSE[torch_dtype], f"{contender}: {error:.1e} off"
    passes, kept = passes_of(forward, wanted, dy)
    maps, out = (1, 1) if which == "forward" else (2, 1)  # x and y; x, dx and dy
    moved = maps * x.nbytes + out * dy.nbytes
    flops = 2 * weight[0].numel() * truth.numel() * (1 if which == "forward" else 2)
    measure(passes[which], f"{name} {which}", contender, flops, moved, kind="op", kept_bytes=kept)
