"""Recipes of recomputed maps are shared and evaluated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import saved
from fastinpaint.ops.saved import Operand, Recipe, Slot


def add(operands: list[Tensor | None]) -> Tensor:
    first, second = operands
    return first + second  # type: ignore[operator]


class Keeps(torch.autograd.Function):
    """``apply(recipe, x) -> x``; its gradient is the recipe's value."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, x: Tensor) -> Tensor:
        saved.remember(ctx, [recipe])
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None]:
        return None, saved.recall(ctx)[0]


def test_a_recipe_with_two_readers_a_step_is_no_tree() -> None:
    """A chain of 60 residual blocks: evaluated as a tree it would take 2^60 steps."""
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    operand: Operand = x
    for _ in range(60):
        operand = Recipe(add, (operand, operand), Slot(), saved.depth([operand]) + 1)
    assert isinstance(operand, Recipe)
    assert operand.depth == 60
    y = Keeps.apply(operand, x)
    (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert grad.tolist() == [2.0**60] * 3
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.autograd.grad(grad.sum(), x)[0].tolist() == [2.0**60] * 3
