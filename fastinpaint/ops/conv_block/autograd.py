"""`conv_block` as registered operators and nodes of the graph.

A node keeps its sources' raw maps, the weight and, where statistics were asked for, y itself: the tensor that the next
block keeps as its source, so each map is held once. No activation and no concatenation is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import saved
from fastinpaint.ops.conv_block import reference, torch_library
from fastinpaint.ops.conv_block.torch_library import Call
from fastinpaint.ops.dispatch.fast_path import AS_IT_IS, applied, below_autograd, can_bypass_dispatcher, each_once
from fastinpaint.ops.layout import FORMATS
from fastinpaint.ops.saved import Operand, Recipe
from fastinpaint.ops.types import FLAT, Source, flatten, unflatten


class ConvBlock(torch.autograd.Function):
    """``apply(call, recipes, own, weight, bias, *flatten(sources)) -> (y, mean, var)``; without stats both are empty.

    recipes: one operand for each of the flattened sources, or None to keep all. own: the recipe of y where it is not
    kept, else None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        recipes: Sequence[Operand] | None,
        own: Recipe | None,
        weight: Tensor,
        bias: Tensor | None,
        *flat: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        module, packed = call.module, None
        if module is not None and can_bypass_dispatcher(weight, bias, *flat):  # `torch_library.fwd`, a frame less
            with AS_IT_IS if call.unguarded else below_autograd(weight.device):
                operand = weight
                if call.packs:
                    operand = weight.contiguous(memory_format=FORMATS[weight.dim()])
                    packed = None if operand is weight else operand
                y, mean, var = module.fwd(unflatten(flat, call.relus), operand, bias, call.geometry, call.stats)
                if not call.stats:
                    mean, var = y.new_empty(0), y.new_empty(0)
        else:
            y, mean, var = torch_library.fwd(call, list(flat), weight, bias)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.slot = call, None if own is None else own.slot
        ctx.bias_given = bias is not None
        statistics = ((y if own is None else own), mean) if call.stats else (None, None)
        double = bias if bias is not None and bias.requires_grad else None  # a vector, for double backward only
        saved.remember(ctx, (weight, packed, double, *statistics, *(flat if recipes is None else recipes)))
        if not call.stats:
            ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        if dy is None and dmean is None and dvar is None:  # of a function that gives no gradient to what read y
            return (None,) * len(ctx.needs_input_grad)
        weight, packed, bias, y, mean, *flat = saved.recall(ctx)
        assert weight is not None
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (None, None, None, *_differentiable(call, (dy, dmean, dvar), weight, bias, flat))
        needs_weight, needs_bias, *of_flat = ctx.needs_input_grad[3:]
        needs = [any(of_flat[FLAT * i : FLAT * i + FLAT]) for i in range(len(call.relus))]
        needed = (needs, needs_weight, ctx.bias_given and needs_bias)
        dy, dmean, dvar = torch_library.with_zeros(dy, dmean, dvar, y, mean)
        module = call.module
        if module is not None and can_bypass_dispatcher(dy, dmean, dvar, y, mean, weight, *flat):
            with AS_IT_IS if call.unguarded else below_autograd(weight.device):
                operand = weight if packed is None else packed
                if call.packs:  # another call's forward may have gone through the dispatcher
                    operand = operand.contiguous(memory_format=FORMATS[operand.dim()])
                found, dweight, dbias = module.bwd(
                    dy, dmean, dvar, y, mean, unflatten(flat, call.relus), operand, call.geometry, *needed
                )
                grads, dweight, dbias = torch_library.flat_gradients(found, dweight, dbias, flat, dy, module, needs)
        else:
            grads, dweight, dbias = torch_library.bwd(call, dy, dmean, dvar, y, mean, flat, weight, *needed)
        if ctx.slot is not None:
            ctx.slot.value = None  # the maker of a map is its last reader
        return (None, None, None, dweight, dbias, *grads)


def _differentiable(
    call: Call, grads: Sequence[Tensor | None], weight: Tensor, bias: Tensor | None, flat: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Backward for ``create_graph=True``, by plain torch."""

    def forward(weight: Tensor, bias: Tensor | None, *flat: Tensor | None) -> Sequence[Tensor]:
        # contiguous: torch's double backward of a convolution in float64 refuses other weights
        found = reference.fwd(unflatten(flat, call.relus), weight.contiguous(), bias, call.geometry, call.stats)
        return [t for t in found if t is not None]

    count = 3 if call.stats else 1
    return saved.differentiate(forward, [weight, bias, *flat], grads[:count])


class BatchStats(torch.autograd.Function):
    """``apply(backend, x) -> (mean, var)`` of a map that no conv_block made."""

    @staticmethod
    def forward(ctx: Any, backend: str, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = torch.ops.fastinpaint.batch_stats.default(x, backend)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[None, Tensor]:
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return None, saved.differentiate(lambda x: reference.batch_stats(x), [x], [dmean, dvar])[0]  # type: ignore[return-value]
        return None, reference.stats_bwd(torch.zeros_like(x), dmean, dvar, x, mean)


def recompute(call: Call, operands: list[Tensor | None]) -> Tensor:
    """y from ``[weight, bias, *flatten(sources)]``: what a recipe runs. Differentiable where autograd records."""
    weight, bias, *flat = operands
    assert weight is not None
    if torch.is_grad_enabled():
        return reference.fwd(unflatten(flat, call.relus), weight, bias, call.geometry, False)[0]
    return torch_library.fwd(call._replace(stats=False), flat, weight, bias)[0]


def node(
    call: Call,
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    recipes: Sequence[Operand] | None = None,
    own: Recipe | None = None,
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What adds a `ConvBlock` to the graph, and its arguments, of checked ones; call: `torch_library.call_of` them."""
    return applied(ConvBlock), (call, recipes, own, weight, bias, *each_once(flatten(sources)))


def apply(call: Call, sources: Sequence[Source], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var of checked arguments."""
    run, arguments = node(call, sources, weight, bias)
    return run(*arguments)
