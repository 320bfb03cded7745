"""A convolution with a batch norm behind it on the CPU, in every way that torch's two layers are used."""

from __future__ import annotations

import pytest
import torch

from fastinpaint import _native
from tests.ops.norm_nets import KINDS, check_step, nets

pytestmark = pytest.mark.skipif(_native.why_not("cpu") is not None, reason=str(_native.why_not("cpu")))


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_torchs(name: str) -> None:
    net, fast, x = nets(name, "cpu")
    check_step(net.double(), fast.double(), x.double(), 1e-10)


def test_twice_differentiable() -> None:
    net, fast, x = (each.double() for each in nets("default", "cpu"))
    found = []
    for model in (fast, net):
        y = model(x.requires_grad_())
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        dx.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
