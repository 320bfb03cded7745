"""`conv_block` and the batch norm that follows it as one node of the graph, for backends that finish both at once.

    y = conv(a, weight) + bias,   mean, var: its statistics      (`reference`)
    rstd = 1 / sqrt(var + eps)    scale = norm_weight * rstd     shift = norm_bias      (`batch_norm.reference`)

and, given dy, dmean, dscale and dshift, the backward of both, one after the other, with dvar = dscale * curve and curve
= -1/2 * scale * rstd^2. Such a backend has ``fwd_norm`` and ``bwd_norm``; see `fastinpaint.ops.conv_block.triton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastinpaint.ops import saved
from fastinpaint.ops.batch_norm import reference as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Normed, Running
from fastinpaint.ops.conv_block import reference, torch_library
from fastinpaint.ops.conv_block.torch_library import GEOMETRY, Call, Flat, geometry_of, pack
from fastinpaint.ops.dispatch.fast_path import (
    TAGS,
    below_autograd,
    can_bypass_dispatcher,
    empty_if_none,
    no_autocast,
    none_if_empty,
)
from fastinpaint.ops.saved import Operand, Recipe
from fastinpaint.ops.types import Geometry, Source, flatten, unflatten

_library = Library("fastinpaint", "FRAGMENT")
_library.define(
    "conv_norm_fwd(Tensor?[] sources, int[] relus, Tensor weight, Tensor? bias, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? tracked, float? momentum, "
    f"float eps, str backend, {GEOMETRY}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=TAGS,
)
_library.define(
    "conv_norm_bwd(Tensor dy, Tensor dmean, Tensor dscale, Tensor y, Tensor[] normed, Tensor? norm_weight, "
    "Tensor?[] sources, int[] relus, Tensor weight, bool[] needs, bool needs_weight, bool needs_bias, str backend, "
    f"{GEOMETRY}) -> Tensor[]",
    tags=TAGS,
)


def can(call: Call, sources: Sequence[Source], norm: Norm) -> bool:
    """Whether the backend that runs this convolution has both in one node."""
    if call.module is None or not hasattr(call.module, "fwd_norm") or not all(s.x.numel() for s in sources):
        return False
    # without a momentum each program would have to read the count that one of them changes
    return norm.running is None or norm.running.momentum is not None


def _fwd(
    flat: Flat,
    relus: list[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    tracked: Tensor | None,
    momentum: float | None,
    eps: float,
    backend: str,
    *axes: Any,
) -> tuple[Tensor, ...]:
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, tracked, momentum)
    sources, geometry = unflatten(flat, relus), geometry_of(*axes)
    with no_autocast(weight.device):
        module = torch_library.choose(backend, sources, weight, geometry)
        return _fwd_on(module, sources, weight, bias, geometry, Norm(norm_weight, norm_bias, running, eps))


def _fwd_on(
    module: ModuleType, sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, norm: Norm
) -> tuple[Tensor, ...]:
    y, normed = module.fwd_norm(sources, weight, bias, geometry, norm)
    if norm.running is not None:  # autograd is to see what a kernel changed
        changed = [t for t in norm.running[:3] if t is not None and not t.is_inference()]
        torch.autograd.graph.increment_version(changed)
    return y, *normed


def _fwd_fake(flat: Flat, relus: list[int], weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    y, mean, _ = torch_library.run_fwd(True, flat, relus, weight, bias, True, *rest[7:])
    return y, *(torch.empty_like(mean) for _ in Normed._fields)


def _bwd(
    dy: Tensor,
    dmean: Tensor,
    dscale: Tensor,
    y: Tensor,
    normed: list[Tensor],
    norm_weight: Tensor | None,
    flat: Flat,
    relus: list[int],
    weight: Tensor,
    needs: list[bool],
    needs_weight: bool,
    needs_bias: bool,
    *options: Any,
) -> list[Tensor]:
    backend, *axes = options
    sources, geometry = unflatten(flat, relus), geometry_of(*axes)
    with no_autocast(weight.device):
        module = torch_library.choose(backend, sources, weight, geometry)
        needed = (needs, needs_weight, needs_bias)
        found = _bwd_on(module, dy, dmean, dscale, y, normed, norm_weight, sources, weight, geometry, *needed)
    return [empty_if_none(t, dy) for t in found]


def _bwd_on(
    module: ModuleType, dy: Tensor, dmean: Tensor, dscale: Tensor, y: Tensor, normed: Sequence[Tensor], *rest: Any
) -> list[Tensor | None]:
    """Gradients of the flattened sources, of weight, bias and norm_weight."""
    grads, dweight, dbias, dnorm_weight = module.bwd_norm(dy, dmean, dscale, y, Normed(*normed), *rest)
    return [*pack(grads, dweight, dbias, dy), dnorm_weight]


def _bwd_fake(
    dy: Tensor,
    dmean: Tensor,
    dscale: Tensor,
    y: Tensor,
    normed: list[Tensor],
    norm_weight: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    found = torch_library.run_bwd(True, dy, dmean, dscale, y, normed[0], *rest)
    return [*found, empty_if_none(None if norm_weight is None else torch.empty_like(norm_weight), dy)]


for _name, _function, _fake in (("conv_norm_fwd", _fwd, _fwd_fake), ("conv_norm_bwd", _bwd, _bwd_fake)):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    register_fake(f"fastinpaint::{_name}", _fake, lib=_library)


class Kept(NamedTuple):
    """What `ConvNorm` takes that has no gradient: see `fastinpaint.ops.conv_block.autograd.ConvBlock`."""

    call: Call
    running: Running | None
    eps: float
    recipes: Sequence[Operand] | None
    own: Recipe | None


class ConvNorm(torch.autograd.Function):
    """``apply(kept, weight, bias, norm_weight, norm_bias, *flatten(sources)) -> (y, mean, scale, shift)``."""

    @staticmethod
    def forward(
        ctx: Any,
        kept: Kept,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        *flat: Tensor | None,
    ) -> tuple[Tensor, ...]:
        call, running, eps, recipes, own = kept
        if call.module is not None and can_bypass_dispatcher(
            weight, bias, norm_weight, norm_bias, *(running or ())[:3], *flat
        ):
            norm = Norm(norm_weight, norm_bias, running, eps)
            with below_autograd(weight.device):
                y, *normed = _fwd_on(call.module, unflatten(flat, call.relus), weight, bias, call.geometry, norm)
        else:
            y, *normed = torch.ops.fastinpaint.conv_norm_fwd.default(
                list(flat), call.relus, weight, bias, norm_weight, norm_bias, *(running or (None,) * 4), eps,
                call.backend, *call.geometry,
            )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.call, ctx.eps, ctx.slot = call, eps, None if own is None else own.slot
        double = bias if bias is not None and bias.requires_grad else None  # a vector, for double backward only
        vectors = (weight, double, norm_weight, norm_bias, *normed)
        saved.remember(ctx, (*vectors, y if own is None else own, *(flat if recipes is None else recipes)))
        return y, *normed[:3]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, bias, norm_weight, norm_bias, *rest = saved.recall(ctx)
        normed, y, flat = rest[:5], rest[5], rest[6:]
        assert weight is not None
        if torch.is_grad_enabled():
            forward = partial(_forward, ctx.call, ctx.eps)
            return (None, *saved.differentiate(forward, [weight, bias, norm_weight, norm_bias, *flat], upstream))
        dy, dmean, dscale = (
            torch.zeros_like(like) if grad is None and like is not None else grad
            for grad, like in zip(upstream[:3], (y, *normed[:2]), strict=True)
        )
        _, needs_weight, needs_bias, needs_norm_weight, _, *of_flat = ctx.needs_input_grad
        needs = [any(of_flat[5 * i : 5 * i + 5]) for i in range(len(ctx.call.relus))]
        found = _run_backward(
            ctx.call, dy, dmean, dscale, y, normed, norm_weight if needs_norm_weight else None, flat, weight, needs,
            needs_weight, needs_bias,
        )  # fmt: skip
        if ctx.slot is not None:
            ctx.slot.value = None  # the maker of a map is its last reader
        *grads, dweight, dbias, dnorm_weight = found
        dshift = upstream[3]
        dnorm_bias = None if norm_bias is None or dshift is None else dshift.to(norm_bias.dtype)
        return (None, dweight, dbias, dnorm_weight, dnorm_bias, *torch_library.with_addends(grads, flat, needs))


def _run_backward(call: Call, *arguments: Any) -> list[Tensor | None]:
    """Gradients of the flattened sources, of weight, bias and norm_weight."""
    *tensors, flat, weight, needs, needs_weight, needs_bias = arguments
    dy, dmean, dscale, y, normed, norm_weight = tensors
    relus, geometry, _, backend, module = call
    if module is not None and can_bypass_dispatcher(dy, dmean, dscale, y, *normed, norm_weight, weight, *flat):
        with below_autograd(weight.device):
            sources = unflatten(flat, relus)
            return _bwd_on(module, *tensors, sources, weight, geometry, needs, needs_weight, needs_bias)
    found = torch.ops.fastinpaint.conv_norm_bwd.default(
        *tensors, flat, relus, weight, needs, needs_weight, needs_bias, backend, *geometry
    )
    return [none_if_empty(g) for g in found]


def _forward(
    call: Call,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *flat: Tensor | None,
) -> tuple[Tensor, ...]:
    """y, mean, scale and shift in plain torch."""
    y, mean, var = reference.fwd(unflatten(flat, call.relus), weight, bias, call.geometry, True)
    assert mean is not None
    assert var is not None
    return y, mean, *batch_norm.affine(var, norm_weight, norm_bias, eps)


def apply(
    call: Call,
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm,
    recipes: Sequence[Operand] | None = None,
    own: Recipe | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and mean, scale and shift of the batch norm that follows, of checked arguments for which `can` is true."""
    kept = Kept(call, norm.running, norm.eps, recipes, own)
    return ConvNorm.apply(kept, weight, bias, norm.weight, norm.bias, *flatten(sources))
