"""A convolution followed by batch norm on the CPU, in every way that torch's two layers are used."""

from __future__ import annotations

import pytest

from fastinpaint.ops.dispatch import native
from tests.ops.conv_block.norm_nets import KINDS, check_step, check_twice_differentiable, nets

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_torchs(name: str) -> None:
    net, fast, x = nets(name, "cpu")
    check_step(net.double(), fast.double(), x.double(), 1e-10)


def test_twice_differentiable() -> None:
    net, fast, x = nets("default", "cpu")
    check_twice_differentiable(net.double(), fast.double(), x.double(), 1e-9)
