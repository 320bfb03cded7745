"""`accelerate` computes what public networks compute: float64, equal to 1e-8 of each tensor's norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration.example import float_tensors
from tests.strangers.networks import NETWORKS, USUAL, made, quiet

CLOSE = 1e-8  # of a tensor's norm
# torch rounds the 1/6 of hardsigmoid's gradient to float32, in float64 too; efficientvit's attention is float32's
AS_CLOSE_AS_TORCH_IS = {"timm efficientvit_b0": 1e-6, "timm ese_vovnet19b_dw": 1e-6}
NOTHING = 1e-9  # of the largest gradient: what rounding leaves of sums that cancel, as for a bias before batch norm


def step(net: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """Results, loss, every gradient and every buffer of one training step, and the results in evaluation mode."""
    net.train()
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    results = float_tensors(net(x))
    loss = sum((t * t.detach().cos()).mean() for t in results)
    for parameter in net.parameters():
        parameter.grad = None
    loss.backward()  # type: ignore[union-attr]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    buffers = [b.double() for b in net.buffers()]
    with torch.no_grad():
        evaluated = float_tensors(net.eval()(x))
    return {"results": [*results, loss], "gradients": [*grads, x.grad], "buffers": buffers, "eval": evaluated}  # type: ignore[list-item]


def assert_equal(ours: dict[str, list[Tensor]], expected: dict[str, list[Tensor]], close: float = CLOSE) -> None:
    for what, tensors in expected.items():
        largest = max((float(t.detach().norm()) for t in tensors if t.numel()), default=0.0)
        for i, (mine, right) in enumerate(zip(ours[what], tensors, strict=True)):
            distance, norm = float((mine - right).detach().norm()), float(right.detach().norm())
            assert distance <= close * norm + NOTHING * largest, f"{what} {i}: {distance:.1e} of {norm:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_computes_the_same(name: str) -> None:
    net, x = made(name, USUAL)
    quiet(net)
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    assert fast.fastinpaint_report.swapped
    assert list(fast.state_dict()) == list(net.state_dict())
    twin = copy.deepcopy(fast)
    expected = step(copy.deepcopy(net), x)
    close = AS_CLOSE_AS_TORCH_IS.get(name, CLOSE)
    assert_equal(step(fast, x), expected, close)
    twin.load_state_dict(net.state_dict())
    assert_equal(step(twin, x), expected, close)
