"""GELU of plain maps by the library's kernels, as between linear layers, where those are faster than torch's.

The tanh form is, by two to three times. The exact one is in backward, by a quarter. Measurements:
docs/results/any_network.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import saved
from fastinpaint.ops.conv_block.cpu import LEAST_PLAIN
from fastinpaint.ops.dispatch import native_cpu
from fastinpaint.ops.dispatch.fast_path import autocasts, can_bypass_dispatcher
from fastinpaint.ops.norm_act import Act, Form, cpu, reference
from fastinpaint.ops.norm_act import autograd as norm_act

LEAST = {"gelu_tanh": LEAST_PLAIN, "gelu": 2 * LEAST_PLAIN}  # values; below, the calls in Python take longer
LANES = 64  # values of a row: four vectors, which the kernels take at once
NONE = (None,) * 6  # no norm, addend or slope
NEEDS = (True, False, False, False, False)  # the gradient of the map alone


def can_run(z: Any, act: Act, backend: str, with_backward: bool) -> bool:
    """Whether the kernels take this plain map, and are faster than torch."""
    least = LEAST.get(act.kind)
    if least is None or type(z) is not Tensor or z.dtype != torch.float32 or z.device.type != "cpu":
        return False
    size = z.numel()
    if size < least or size % LANES or not z.is_contiguous() or not can_bypass_dispatcher(z) or autocasts(z.device):
        return False
    if norm_act.module_of(_rows(z), Form(act), backend) is not cpu:
        return False
    return act.kind == "gelu_tanh" or (with_backward and native_cpu.isa() != "scalar")


def run(act: Act, z: Tensor) -> Tensor:
    """act(z), with no gradient."""
    return _shaped(cpu.fwd(_rows(z), *NONE, Form(act)), z.shape)


class Gelu(torch.autograd.Function):
    """``apply(act, z) -> a``."""

    @staticmethod
    def forward(ctx: Any, act: Act, z: Tensor) -> Tensor:
        ctx.act = act
        saved.remember(ctx, (z,))
        return run(act, z)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[None, Tensor]:
        (z,) = saved.recall(ctx)
        assert z is not None
        if torch.is_grad_enabled() or not da.is_contiguous() or not can_bypass_dispatcher(da):
            return None, reference.act_bwd(ctx.act, da, z)
        dz = cpu.bwd(_rows(da), _rows(z), *NONE, None, Form(ctx.act), NEEDS)[0]
        assert dz is not None
        return None, _shaped(dz, z.shape)


def _rows(z: Tensor) -> Tensor:
    """A map's values as one of `LANES` channels."""
    return z.view(-1, LANES, 1, 1)


def _shaped(rows: Tensor, shape: torch.Size) -> Tensor:
    """The values in a shape, as no view: else no activation in place could change them."""
    return torch.ops.aten._unsafe_view.default(rows, shape)
