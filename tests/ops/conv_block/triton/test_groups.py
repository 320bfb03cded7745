"""Grouped convolutions in Triton: programs that walk several tiles, and the batch norm in the convolution's node."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.conv_block import triton
from fastinpaint.ops.conv_block.triton import groups
from fastinpaint.testing.rule import check_all
from tests.ops.conv_block.triton.test_conv_block import run
from tests.ops.triton.cases import CASES, DEVICE


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize(
    ("name", "programs"),
    [("2d-depthwise", 27), ("2d-depthwise-transposed", 32), ("2d-grouped", 36), ("2d-grouped", 1)],
    ids=["12 of 10 tiles", "2 x 2 tiles", "2 x 3 tiles", "6 tiles"],
)
def test_wgrad_programs_sum_several_tiles(name, programs, monkeypatch):
    monkeypatch.setattr(groups, "PROGRAMS", programs)
    monkeypatch.setattr(groups, "ITEMS", 256)
    monkeypatch.setattr(groups, "MOST_STEP", 16)
    run(CASES[name], torch.float32)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(20, 20, 3, padding=1, groups=20, bias=False),
        nn.Conv2d(32, 64, 3, stride=2, groups=2),
        nn.ConvTranspose2d(32, 64, 4, stride=2, groups=2, bias=False),
    ],
    ids=["depthwise", "grouped", "transposed"],
)
def test_a_training_step_with_batch_norm(conv, monkeypatch):
    """The fused model's gradients are within twice the plain one's error, those of batch norm too."""
    used = []
    monkeypatch.setattr(triton.groups, "bwd", lambda *call: used.append(call) or bwd(*call))
    torch.manual_seed(0)
    plain = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()).to(DEVICE)
    x = torch.randn(2, conv.in_channels, 5, 6, device=DEVICE)

    def step(net, x):
        x = x.clone().requires_grad_()
        y = net(x)
        (y * torch.linspace(-1, 2, y.numel(), device=DEVICE, dtype=y.dtype).view_as(y)).sum().backward()
        found = [y, x.grad, *(p.grad for p in net.parameters())]
        net.zero_grad()
        return found

    expected, true = step(plain, x), step(plain.double(), x.double())
    got = step(fastinpaint.accelerate(plain.float(), "triton"), x)
    assert used
    check_all([f"result {i}" for i in range(len(got))], got, expected, true)


bwd = groups.bwd
