"""`masked_l1` as registered operators and a node of the graph, which keeps output, target and mask and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastinpaint.ops import saved
from fastinpaint.ops.dispatch import registry as backends
from fastinpaint.ops.dispatch.fast_path import TAGS, no_autocast
from fastinpaint.ops.masked_l1 import reference

OP = "masked_l1"
_library = Library("fastinpaint", "FRAGMENT")
_library.define(
    "masked_l1_fwd(Tensor output, Tensor target, Tensor mask, bool per_frame, str backend) -> Tensor", tags=TAGS
)
_library.define(
    "masked_l1_bwd(Tensor dloss, Tensor output, Tensor target, Tensor mask, bool per_frame, str backend) -> Tensor",
    tags=TAGS,
)


def _fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, backend: str) -> Tensor:
    with no_autocast(output.device):
        module = backends.choose(OP, backend, output.device, output, target, mask)
        return module.fwd(output, target, mask, per_frame)


def _fwd_fake(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, backend: str) -> Tensor:
    return output.new_empty((), dtype=torch.float64 if output.dtype == torch.float64 else torch.float32)


def _bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, backend: str) -> Tensor:
    with no_autocast(output.device):
        module = backends.choose(OP, backend, output.device, output, target, mask)
        return module.bwd(dloss, output, target, mask, per_frame)


def _bwd_fake(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, backend: str) -> Tensor:
    return reference.bwd(dloss, output, target, mask, per_frame)


for _name, _implementation, _fake in (("masked_l1_fwd", _fwd, _fwd_fake), ("masked_l1_bwd", _bwd, _bwd_fake)):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    register_fake(f"fastinpaint::{_name}", _fake, lib=_library)


class MaskedL1(torch.autograd.Function):
    """``apply(output, target, mask, per_frame, backend)``."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, backend: str) -> Tensor:
        ctx.save_for_backward(output, target, mask)
        ctx.per_frame, ctx.backend = per_frame, backend
        return torch.ops.fastinpaint.masked_l1_fwd.default(output, target, mask, per_frame, backend)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        output, target, mask = ctx.saved_tensors
        needs_output, needs_target = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            grads = saved.differentiate(
                lambda output, target: [reference.fwd(output, target, mask, ctx.per_frame)], [output, target], [dloss]
            )
            return (*grads, None, None, None)
        doutput = torch.ops.fastinpaint.masked_l1_bwd.default(dloss, output, target, mask, ctx.per_frame, ctx.backend)
        dtarget = (-doutput).to(target.dtype) if needs_target else None
        return doutput if needs_output else None, dtarget, None, None, None
