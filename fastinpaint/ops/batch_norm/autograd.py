"""`batch_norm` as registered operators and a node of the graph, which keeps var and the parameters."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fastinpaint.ops import saved
from fastinpaint.ops.batch_norm import reference
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.dispatch.fast_path import (
    TAGS,
    below_autograd,
    can_bypass_dispatcher,
    empty_if_none,
    no_autocast,
    none_if_empty,
    register,
)

OP = "batch_norm"
_library = Library("fastinpaint", "FRAGMENT")
_library.define(
    "batch_norm_fwd(Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? tracked, float? momentum, int count, Tensor? total, float eps, str backend) "
    "-> (Tensor, Tensor)",
    tags=TAGS,
)
_library.define(
    "batch_norm_bwd(Tensor dscale, Tensor var, Tensor? weight, float eps, bool needs_weight, str backend) "
    "-> (Tensor, Tensor)",
    tags=TAGS,
)


def _fwd(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    tracked: Tensor | None,
    momentum: float | None,
    count: int,
    total: Tensor | None,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, tracked, momentum)
    with no_autocast(var.device):
        module = registry.choose(OP, backend, var.device, var, weight, bias, running)
        return module.fwd(mean, var, weight, bias, running, count if total is None else total, eps)


def _fwd_fake(mean: Tensor, var: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(var), torch.empty_like(var)


def _bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool, backend: str
) -> tuple[Tensor, Tensor]:
    with no_autocast(var.device):
        module = registry.choose(OP, backend, var.device, var, weight, None, None)
        dvar, dweight = module.bwd(dscale, var, weight, eps, needs_weight)
    return dvar, empty_if_none(dweight, dvar)


def _bwd_fake(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool, backend: str
) -> tuple[Tensor, Tensor]:
    dweight = torch.empty_like(weight) if needs_weight and weight is not None else None
    return torch.empty_like(var), empty_if_none(dweight, var)


for _name, _implementation, _fake in (("batch_norm_fwd", _fwd, _fwd_fake), ("batch_norm_bwd", _bwd, _bwd_fake)):
    register(_library, _name, _implementation, _fake)


class Call(NamedTuple):
    """What `BatchNorm` takes that has no gradient through it.

    Attributes:
        mean: for the running statistics alone.
        values: the number of values per channel, a number or a float scalar.
    """

    mean: Tensor
    running: Running | None
    values: int | Tensor
    eps: float
    backend: str


class BatchNorm(torch.autograd.Function):
    """``apply(call, var, weight, bias) -> (scale, shift)``; the running statistics follow."""

    @staticmethod
    def forward(ctx: Any, call: Call, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.backend = call.eps, call.backend
        ctx.save_for_backward(var, weight, bias)
        number, total = (0, call.values) if isinstance(call.values, Tensor) else (call.values, None)
        arguments = (
            call.mean, var, weight, bias, *(call.running or (None,) * 4), number, total, call.eps, call.backend
        )  # fmt: skip
        if can_bypass_dispatcher(*arguments[:7]):
            with below_autograd(var.device):
                return _fwd(*arguments)
        return torch.ops.fastinpaint.batch_norm_fwd.default(*arguments)

    @staticmethod
    def backward(ctx: Any, dscale: Tensor | None, dshift: Tensor | None) -> tuple[Tensor | None, ...]:
        var, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            forward = partial(reference.affine, eps=ctx.eps)
            return (None, *saved.differentiate(forward, [var, weight, bias], [dscale, dshift]))
        _, needs_var, needs_weight, _ = ctx.needs_input_grad
        dvar = dweight = None
        if dscale is not None and (needs_var or needs_weight):
            arguments = (dscale, var, weight, ctx.eps, needs_weight, ctx.backend)
            if can_bypass_dispatcher(dscale, var, weight):
                with below_autograd(var.device):
                    dvar, found = _bwd(*arguments)
            else:
                dvar, found = torch.ops.fastinpaint.batch_norm_bwd.default(*arguments)
            dweight = none_if_empty(found) if needs_weight else None
        return None, dvar, dweight, None if bias is None or dshift is None else dshift.to(bias.dtype)


_modules: dict[tuple[Any, ...], ModuleType] = {}


def module_of(backend: str, var: Tensor, *arguments: Any) -> ModuleType:
    """The module that runs it, remembered by all that the choice depends on; further arguments as `in_torch`'s."""
    question = (backend, var.device, var.dtype, *registry.settings())
    found = _modules.get(question)
    if found is None:
        found = _modules[question] = registry.choose(OP, backend, var.device, var, *(arguments or (None,) * 3))
    return found


def in_torch(backend: str, var: Tensor, *arguments: Any) -> bool:
    """Whether it is plain torch, as `reference` has it; further arguments: weight, bias and running statistics."""
    return module_of(backend, var, *arguments).IN_TORCH


def apply(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    count: int | Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """scale and shift; the running statistics follow. A compiler gets plain torch, to fuse it with what is around."""
    if torch.compiler.is_compiling() or in_torch(backend, var, weight, bias, running):
        if running is not None:
            reference.update(mean.detach(), var.detach(), running, count)
        return reference.affine(var, weight, bias, eps)
    return BatchNorm.apply(Call(mean.detach(), running, count, eps, backend), var, weight, bias)
