"""The memory-bound ops against copies of the same bytes: activation and masked L1, forward and backward."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.activation import activation
from fastinpaint.ops.masked_l1 import masked_l1
from fastinpaint.ops.types import Source


def plain_activation(x, mean, scale, shift):
    """The same by torch's own ops."""
    view = (1, -1, 1, 1)
    return torch.relu((x - mean.view(view)) * scale.view(view) + shift.view(view))


def plain_l1(output, target, mask):
    """Eq. 1 by torch's own ops."""
    return ((output - target).abs() * mask).sum() / (3 * mask.sum())


@pytest.mark.parametrize("passes", ["forward", "training"])
@pytest.mark.parametrize("contender", ["eager", "fastinpaint"])
def test_activation(contender, passes, workload, measure):
    """relu((x - mean) * scale + shift) of a map of CombCN's second layer."""
    channels, side = 128, workload.size // 2
    x = torch.randn(workload.frames, channels, side, side, device=workload.device, dtype=workload.torch_dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    mean, scale, shift = (torch.randn(channels, device=workload.device, requires_grad=True) for _ in range(3))

    def forward() -> torch.Tensor:
        if contender == "eager":
            return plain_activation(x, mean, scale, shift).to(x.dtype)
        return activation([Source(x, mean, scale, shift, relu=True)])

    upstream = torch.randn_like(x)
    torch.testing.assert_close(forward(), plain_activation(x, mean, scale, shift).to(x.dtype), rtol=2e-2, atol=2e-2)

    def run() -> None:
        if passes == "training":
            torch.autograd.grad(forward(), (x, mean, scale, shift), upstream)
        else:
            with torch.no_grad():
                forward()

    maps = 2 if passes == "forward" else 5  # forward reads x, writes a; backward reads x and da, writes dx
    measure(run, f"activation {passes}", contender, moved=maps * x.nbytes, kind="op")


@pytest.mark.parametrize("passes", ["forward", "training"])
@pytest.mark.parametrize("contender", ["eager", "fastinpaint"])
def test_masked_l1(contender, passes, workload, measure):
    """The loss of Eq. 1 at full size."""
    shape = (workload.batch, 3, workload.frames, workload.size, workload.size)
    output, target = (torch.rand(shape, device=workload.device) for _ in range(2))
    mask = (torch.rand(shape[0], 1, *shape[2:], device=workload.device) > 0.8).float()
    output.requires_grad_()

    def forward() -> torch.Tensor:
        return plain_l1(output, target, mask) if contender == "eager" else masked_l1(output, target, mask)

    torch.testing.assert_close(forward(), plain_l1(output, target, mask))

    def run() -> None:
        if passes == "training":
            torch.autograd.grad(forward(), output)
        else:
            with torch.no_grad():
                forward()

    moved = (2 if passes == "forward" else 5) * output.nbytes + (1 if passes == "forward" else 2) * mask.nbytes
    measure(run, f"masked_l1 {passes}", contender, moved=moved, kind="op")
