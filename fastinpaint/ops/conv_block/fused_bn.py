"""`conv_block` and the batch norm that follows it as one node of the graph, for backends that finish both at once.

    y = conv(a, weight) + bias,   mean, var: its statistics      (`reference`)
    rstd = 1 / sqrt(var + eps)    scale = norm_weight * rstd     shift = norm_bias      (`batch_norm.reference`)

and, given dy, dmean, dscale and dshift, the backward of both, one after the other, with dvar = dscale *
dvar_per_dscale and dvar_per_dscale = -1/2 * scale * rstd^2. Such a backend has ``fwd_norm`` and ``bwd_norm``; see
`fastinpaint.ops.conv_block.cpu` and `fastinpaint.ops.conv_block.triton`. A backend with a ``norm_module`` has two
separate calls: the node makes one after the other, which saves a node of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fastinpaint.ops import saved
from fastinpaint.ops.batch_norm import reference as batch_norm
from fastinpaint.ops.batch_norm.reference import VECTORS, Norm, Normed, Running, normed_of
from fastinpaint.ops.conv_block import reference, torch_library
from fastinpaint.ops.conv_block.torch_library import GEOMETRY, Call, Flat, geometry_of, pack
from fastinpaint.ops.dispatch.fast_path import (
    AS_IT_IS,
    TAGS,
    applied,
    below_autograd,
    can_bypass_dispatcher,
    empty_if_none,
    no_autocast,
    none_if_empty,
    register,
)
from fastinpaint.ops.layout import FORMATS
from fastinpaint.ops.saved import Operand, Recipe
from fastinpaint.ops.types import FLAT, Source, flatten, unflatten

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
        y, normed = module.fwd_norm(sources, weight, bias, geometry, Norm(norm_weight, norm_bias, running, eps))
    return y, *normed[:VECTORS]


def _fwd_fake(flat: Flat, relus: list[int], weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    y, mean, _ = torch_library.run_fwd(True, flat, relus, weight, bias, True, *rest[7:])
    return y, *(torch.empty_like(mean) for _ in range(VECTORS))


def _bwd(
    dy: Tensor,
    dmean: Tensor,
    dscale: Tensor,
    y: Tensor,
    normed: list[Any],
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
        grads, dweight, dbias, dnorm_weight = module.bwd_norm(
            dy, dmean, dscale, y, Normed(*normed[:VECTORS]), norm_weight, sources, weight, geometry, *needed
        )  # fmt: skip
    return [empty_if_none(t, dy) for t in (*pack(grads, dweight, dbias, dy, module), dnorm_weight)]


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
    register(_library, _name, _function, _fake)


class Kept(NamedTuple):
    """What `ConvNorm` takes that has no gradient: see `fastinpaint.ops.conv_block.autograd.ConvBlock`.

    norm: the batch norm, whose weight and bias `ConvNorm` takes once more.
    sources: the flattened sources once more, where nothing observes operators and the backend is called directly; else
        None.
    """

    call: Call
    norm: Norm
    recipes: Sequence[Operand] | None
    own: Recipe | None
    sources: Sequence[Source] | None = None


class ConvNorm(torch.autograd.Function):
    """``apply(kept, weight, bias, norm_weight, norm_bias, *flatten(sources)) -> (y, mean, scale, shift[, var])``.

    var, from backends that give it, has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kept: Kept,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        *flat: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        call, norm, recipes, own, sources = kept
        running, eps = norm.running, norm.eps
        rstd = dvar_per_dscale = var = packed = None
        if sources is None:
            y, mean, scale, shift, rstd, dvar_per_dscale = torch.ops.fastinpaint.conv_norm_fwd.default(
                list(flat), call.relus, weight, bias, norm_weight, norm_bias, *(running or (None,) * 4), eps,
                call.backend, *call.geometry,
            )  # fmt: skip
        else:
            module, norm_module = call.module, call.norm_module
            with AS_IT_IS if call.unguarded else below_autograd(weight.device):
                operand = weight
                if call.packs:
                    operand = weight.contiguous(memory_format=FORMATS[weight.dim()])
                    packed = None if operand is weight else operand
                if norm_module is None:
                    y, found = module.fwd_norm(sources, operand, bias, call.geometry, norm)
                    mean, scale, shift, rstd, dvar_per_dscale, var, _, _ = found
                else:
                    y, mean, var = module.fwd(sources, operand, bias, call.geometry, True)
                    values = y.numel() // y.shape[1]
                    scale, shift = norm_module.fwd(mean, var, norm_weight, norm_bias, running, values, eps)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.eps, ctx.slot = call, eps, None if own is None else own.slot
        double = bias if bias is not None and bias.requires_grad else None  # a vector, for double backward only
        vectors = (weight, packed, double, norm_weight, norm_bias, mean, scale, rstd, dvar_per_dscale, var)
        if recipes is None and own is None and len(flat) == FLAT and flat[-1] is None:  # none is saved twice
            ctx.places = None
            ctx.save_for_backward(*vectors, y, *flat)
        else:
            saved.remember(ctx, (*vectors, y if own is None else own, *(flat if recipes is None else recipes)))
        if var is None:
            return y, mean, scale, shift
        ctx.mark_non_differentiable(var)
        return y, mean, scale, shift, var

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in upstream):  # of a function that gives no gradient to what read them
            return (None,) * len(ctx.needs_input_grad)
        operands: Any = ctx.saved_tensors if ctx.places is None else saved.recall(ctx)
        weight, packed, bias, norm_weight, norm_bias, mean, scale, rstd, dvar_per_dscale, var, y, *flat = operands
        if torch.is_grad_enabled():
            forward = partial(_forward, ctx.call, ctx.eps)
            return (None, *saved.differentiate(forward, [weight, bias, norm_weight, norm_bias, *flat], upstream[:4]))
        call: Call = ctx.call
        module, relus = call.module, call.relus
        _, needs_weight, needs_bias, needs_norm_weight, _, *of_flat = ctx.needs_input_grad
        dy, dmean, dscale, dshift, *_ = upstream
        dy = torch.zeros_like(y) if dy is None else dy
        scaled = norm_weight if needs_norm_weight else None  # no backward reads shift: scale stands in its place
        needs = [True in of_flat] if len(relus) == 1 else [any(of_flat[5 * i : 5 * i + 5]) for i in range(len(relus))]
        needed = (needs, needs_weight, needs_bias)
        # no registered operator takes var, and no backend that gives it needs zeros
        if var is None and (dmean is None or dscale is None):
            dmean, dscale = (torch.zeros_like(mean) if d is None else d for d in (dmean, dscale))
        if var is not None or (
            module is not None and can_bypass_dispatcher(dy, dmean, dscale, y, mean, norm_weight, weight, *flat)
        ):
            assert module is not None
            sources = unflatten(flat, relus)
            normed = normed_of((mean, scale, scale, rstd, dvar_per_dscale, var, ctx.eps, norm_weight))
            norm_module = call.norm_module
            with AS_IT_IS if call.unguarded else below_autograd(weight.device):
                operand = weight if packed is None else packed
                if call.packs:  # forward may have gone through the dispatcher
                    operand = operand.contiguous(memory_format=FORMATS[operand.dim()])
                if norm_module is None:
                    grads, dweight, dbias, dnorm_weight = module.bwd_norm(
                        dy, dmean, dscale, y, normed, scaled, sources, operand, call.geometry, *needed
                    )
                else:
                    dnorm_weight = dvar = None
                    if dscale is not None:
                        dvar, dnorm_weight = norm_module.bwd(dscale, var, norm_weight, ctx.eps, needs_norm_weight)
                    dy, dmean, dvar = torch_library.with_zeros(dy, dmean, dvar, y, mean)
                    grads, dweight, dbias = module.bwd(
                        dy, dmean, dvar, y, mean, sources, operand, call.geometry, *needed
                    )
                dflat, dweight, dbias = torch_library.flat_gradients(grads, dweight, dbias, flat, dy, module, needs)
        else:
            packed = torch.ops.fastinpaint.conv_norm_bwd.default(
                dy, dmean, dscale, y, [mean, scale, scale, rstd, dvar_per_dscale], scaled, flat, call.relus, weight,
                *needed, call.backend, *call.geometry,
            )  # fmt: skip
            *found, dweight, dbias, dnorm_weight = [none_if_empty(g) for g in packed]
            dflat = torch_library.with_addends(found, flat, needs)
        if ctx.slot is not None:
            ctx.slot.value = None  # the maker of a map is its last reader
        if dshift is not None and (norm_bias is None or dshift.dtype != norm_bias.dtype):
            dshift = None if norm_bias is None else dshift.to(norm_bias.dtype)
        return (None, dweight, dbias, dnorm_weight, dshift, *dflat)


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


def node(
    call: Call,
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm,
    recipes: Sequence[Operand] | None = None,
    own: Recipe | None = None,
) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """What adds a `ConvNorm` to the graph, and its arguments, of checked ones.

    None where the backend that runs this convolution does not have both in one node.
    """
    norm_weight, norm_bias, running, _ = norm
    # without a momentum each program would have to read the count that one of them changes
    if not call.with_norm or (running is not None and running.momentum is None):
        return None
    module, flat = call.module, flatten(sources)
    changed = () if running is None else running[:3]
    direct = module is not None and can_bypass_dispatcher(weight, bias, norm_weight, norm_bias, *changed, *flat)
    if not direct and (call.norm_module is not None or getattr(module, "NORM_NEEDS_BYPASS", False)):
        return None
    if hasattr(module, "why_not_norm") and module.why_not_norm(sources, norm) is not None:
        return None
    kept = Kept(call, norm, recipes, own, sources if direct else None)
    return applied(ConvNorm), (kept, weight, bias, norm_weight, norm_bias, *flat)
