"""`Linear` keeps no input that one elementwise pass computes again from what backward keeps anyway.

    y = a @ weight^T + bias,   a = act(z) or a = layer_norm(z)

Torch's nodes keep z for act' and for the norm, and a for the weight's gradient. Here a is computed again from z. Maps
stay plain tensors: a carries a note of how it was made, which the linear layer that reads it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastinpaint.nn.layer import _Layer
from fastinpaint.nn.observed import hooked
from fastinpaint.nn.raw import version
from fastinpaint.ops import saved
from fastinpaint.ops.dispatch.fast_path import applied, autocasts, can_bypass_dispatcher
from fastinpaint.ops.saved import Recipe, Slot

NOTE = "_fastinpaint_again"  # the attribute of a tensor


class Note(NamedTuple):
    """How a tensor of this version is computed."""

    recipe: Recipe
    version: int


def can_be_noted(input: Any) -> bool:
    """Whether autograd keeps this input of an elementwise step, so that its result can be computed again."""
    if type(input) is not Tensor or not torch.is_grad_enabled() or not input.requires_grad:
        return False
    return not autocasts(input.device) and can_bypass_dispatcher(input)


def noted(a: Tensor, run: Callable[[list[Tensor | None]], Tensor], *operands: Tensor | None) -> Tensor:
    """The tensor, with a note that ``run(operands)`` computes it."""
    setattr(a, NOTE, Note(Recipe(run, operands, Slot()), version(a)))
    return a


def forget(result: Any) -> None:
    """Take the notes off tensors that leave the model: others would copy and store them."""
    if type(result) is Tensor:
        vars(result).pop(NOTE, None)
    elif isinstance(result, tuple | list):
        for item in result:
            forget(item)
    elif isinstance(result, dict):
        forget(list(result.values()))


class LinearNode(torch.autograd.Function):
    """``apply(recipe, a, weight, bias) -> y``; the recipe computes a again."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.shape, ctx.slot = a.shape, recipe.slot
        saved.remember(ctx, (recipe, weight))
        # as F.linear, whose result is a view, which no activation in place could change
        rows = F.linear(a.reshape(-1, a.shape[-1]), weight, bias)
        return torch.ops.aten._unsafe_view.default(rows, (*a.shape[:-1], rows.shape[-1]))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, weight = saved.recall(ctx)
        assert a is not None
        assert weight is not None
        _, by_a, by_weight, by_bias = ctx.needs_input_grad
        dy = dy.reshape(-1, dy.shape[-1])
        da = (dy @ weight).view(ctx.shape) if by_a else None
        dweight = dy.t() @ a.reshape(-1, a.shape[-1]) if by_weight else None
        ctx.slot.value = None  # of several linear layers that read a, each computes it again
        return None, da, dweight, dy.sum(0) if by_bias else None


class Linear(_Layer, nn.Linear):
    """``torch.nn.Linear`` that computes its input again in backward, where that is an activation's or a norm's."""

    def _fused(self, input: Any) -> Any:
        note = None if torch.compiler.is_compiling() else vars(input).get(NOTE)
        if note is None or not can_be_noted(input) or note.version != version(input):
            return NotImplemented
        weight, bias = self.weight, self.bias  # each is read once: a parametrization computes it
        if not weight.requires_grad or not can_bypass_dispatcher(weight, bias):
            return NotImplemented
        return applied(LinearNode)(note.recipe, input, weight, bias)


class LayerNorm(_Layer, nn.LayerNorm):
    """``torch.nn.LayerNorm`` whose result a `Linear` computes again."""

    def _fused(self, input: Any) -> Any:
        if hooked(self) or not can_be_noted(input):
            return NotImplemented
        weight, bias = self.weight, self.bias
        again = partial(_normed, self.normalized_shape, self.eps)
        return noted(again([input, weight, bias]), again, input, weight, bias)


def _normed(shape: tuple[int, ...], eps: float, operands: list[Tensor | None]) -> Tensor:
    """Layer norm of ``[x, weight, bias]``."""
    x, weight, bias = operands
    assert x is not None
    return F.layer_norm(x, shape, weight, bias, eps)
