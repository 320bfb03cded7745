"""Convolutions that follow one another, each with its batch norm, as one node of the graph.

    y_i = conv_i(a_(i-1)),   a_i = act_i((y_i - mean_i) * scale_i + shift_i),   a_0 what the sources stand for

Nothing but the next convolution reads an inner a_i, which loads it. The node keeps what one node for each convolution
would (`fastinpaint.ops.conv_block.fused_bn`): the raw maps y_i, and vectors. The time in Python and in autograd's
engine, which a small map's arithmetic does not exceed, is spent once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops import saved
from fastinpaint.ops.batch_norm import reference as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, normed_of
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block.torch_library import Call, flat_gradients
from fastinpaint.ops.dispatch.fast_path import applied, below_autograd, can_bypass_dispatcher
from fastinpaint.ops.saved import Operand
from fastinpaint.ops.types import FLAT, Source, flatten, source_of, unflatten

OPERANDS = 4  # of a link: the weights and biases of its convolution and of its batch norm
MADE = 5  # of a link: y, mean, scale, shift and var


class Link(NamedTuple):
    """A convolution and the batch norm after it. Those of an inner link load the map before it by ``call.relus[0]``."""

    call: Call
    weight: Tensor
    bias: Tensor | None
    norm: Norm


class Chain(NamedTuple):
    """What `ConvNorms` takes that has no gradient.

    recipes: one operand for each of the flattened sources, or None to keep all.
    """

    calls: tuple[Call, ...]
    norms: tuple[Norm, ...]
    sources: Sequence[Source]
    recipes: Sequence[Operand] | None


class ConvNorms(torch.autograd.Function):
    """``apply(chain, *operands of each link, *flatten(sources)) -> (y, mean, scale, shift, var)`` of the last link.

    var has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, chain: Chain, *operands: Tensor | None) -> tuple[Tensor | None, ...]:
        calls, norms, sources, recipes = chain
        count = OPERANDS * len(calls)
        made: list[Tensor | None] = []
        first = operands[0]
        assert first is not None
        with below_autograd(first.device):
            for i, call in enumerate(calls):
                weight, bias = operands[OPERANDS * i : OPERANDS * i + 2]
                y, normed = call.module.fwd_norm(sources, weight, bias, call.geometry, norms[i])
                mean, scale, shift, _, _, var, _, _ = normed
                made += (y, mean, scale, shift, var)
                if i + 1 < len(calls):
                    sources = (source_of((y, mean, scale, shift, calls[i + 1].relus[0], None)),)
        ctx.set_materialize_grads(False)
        ctx.calls, ctx.eps = calls, [norm.eps for norm in norms]
        saved.remember(ctx, (*operands[:count], *made, *(operands[count:] if recipes is None else recipes)))
        ctx.mark_non_differentiable(made[-1])
        return tuple(made[-MADE:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        if all(grad is None for grad in upstream):  # of a function that gives no gradient to what read them
            return (None,) * len(needs)
        calls: tuple[Call, ...] = ctx.calls
        values: Any = ctx.saved_tensors if ctx.places is None else saved.recall(ctx)
        count = len(calls)
        operands, made, flat = values[: 4 * count], values[4 * count : 9 * count], values[9 * count :]
        if torch.is_grad_enabled():
            forward = partial(_forward, calls, ctx.eps)
            return (None, *saved.differentiate(forward, [*operands, *flat], upstream[:4]))
        dy, dmean, dscale, dshift, *_ = upstream
        dy = torch.zeros_like(made[-MADE]) if dy is None else dy
        grads: list[Tensor | None] = [None] * (OPERANDS * count)
        dflat: Sequence[Tensor | None] = (None,) * len(flat)
        of_flat = needs[OPERANDS * count + 1 :]
        with below_autograd(dy.device):
            for i in reversed(range(count)):
                call, at = calls[i], OPERANDS * i
                weight, _, norm_weight, norm_bias = operands[at : at + OPERANDS]
                _, needs_weight, needs_bias, needs_norm_weight, _ = needs[at : at + OPERANDS + 1]
                y, mean, scale, _, var = made[MADE * i : MADE * i + MADE]
                if i:
                    sources = [source_of((*made[MADE * i - MADE : MADE * i - 1], call.relus[0], None))]
                    wanted = [True in of_flat or True in needs[: at + 1]]
                else:
                    sources = unflatten(flat, call.relus)
                    wanted = [True in of_flat[FLAT * j : FLAT * j + FLAT] for j in range(len(sources))]
                normed = normed_of((mean, scale, scale, None, None, var, ctx.eps[i], norm_weight))
                found, dweight, dbias, dnorm_weight = call.module.bwd_norm(
                    dy, dmean, dscale, y, normed, norm_weight if needs_norm_weight else None, sources, weight,
                    call.geometry, wanted, needs_weight, needs_bias,
                )  # fmt: skip
                grads[at : at + OPERANDS] = dweight, dbias, dnorm_weight, None if norm_bias is None else dshift
                if not i:
                    dflat, _, _ = flat_gradients(found, None, None, flat, dy, call.module, wanted)
                elif not wanted[0]:
                    break  # nothing before it needs a gradient
                else:
                    dy, dmean, dscale, dshift, _ = found[0]
        return (None, *grads, *dflat)


def _forward(calls: Sequence[Call], eps: Sequence[float], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """y, mean, scale and shift of the last link in plain torch."""
    found: tuple[Tensor, ...] = ()
    sources = unflatten(tensors[OPERANDS * len(calls) :], calls[0].relus)
    for i, call in enumerate(calls):
        weight, bias, norm_weight, norm_bias = tensors[OPERANDS * i : OPERANDS * i + OPERANDS]
        assert weight is not None
        if i:
            sources = [source_of((*found, call.relus[0], None))]
        y, mean, var = reference.fwd(sources, weight, bias, call.geometry, True)
        assert mean is not None
        assert var is not None
        found = y, mean, *batch_norm.affine(var, norm_weight, norm_bias, eps[i])
    return found


def can_join(call: Call | None) -> bool:
    """Whether a chain can have such a call: what runs it finishes batch norms, and gives their variance."""
    return call is not None and call.with_norm and call.norm_module is None and hasattr(call.module, "why_not_norm")


def node(
    links: Sequence[Link], sources: Sequence[Source], recipes: Sequence[Operand] | None = None
) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """What adds a `ConvNorms` to the graph, and its arguments, of checked ones; None where each needs its own node."""
    flat, operands, changed = flatten(sources), list[Tensor | None](), list[Tensor | None]()
    for call, weight, bias, norm in links:
        running = norm.running
        if call.module.why_not_norm(sources, norm) is not None or (running is not None and running.momentum is None):
            return None
        operands += (weight, bias, norm.weight, norm.bias)
        changed += () if running is None else running[:3]
    if not can_bypass_dispatcher(*operands, *changed, *flat):
        return None
    chain = Chain(tuple([link.call for link in links]), tuple([link.norm for link in links]), sources, recipes)
    return applied(ConvNorms), (chain, *operands, *flat)
