"""What a node of the graph keeps for its backward: tensors, and recipes of maps that are cheap to compute again.

A `Recipe` stands for a map that is not kept. Every node that needs it saves the recipe's operands instead, through
``save_for_backward`` like any other tensor, so that checkpointing, version checks and memory hooks see them. The first
backward that needs the map computes it into the recipe's slot; the backward of the node that made the map is the last
that needs it, and empties the slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor


class Slot:
    """Holds a recomputed map for its other readers."""

    value: Tensor | None = None


class Recipe(NamedTuple):
    """``run(operands)`` is the map, bit for bit as forward had it.

    Attributes:
        run: takes the operands as a list; must hold no tensor itself. Where autograd records its result must be
            differentiable, by plain torch.
        operands: tensors, None, or recipes of maps that are not kept either.
        slot: shared by everyone who has this recipe.
        depth: the number of steps in the longest chain of recipes in it.
    """

    run: Callable[[list[Tensor | None]], Tensor]
    operands: tuple[Operand, ...]
    slot: Slot
    depth: int = 1


Operand = Union[Tensor, Recipe, None]  # noqa: UP007 - evaluated when imported, and it names a class


def depth(operands: Sequence[Operand]) -> int:
    """The depth of the deepest recipe among them, 0 without one."""
    deepest = 0
    for operand in operands:
        if isinstance(operand, Recipe):
            deepest = max(deepest, operand.depth)
    return deepest


class _Step(NamedTuple):
    """A recipe whose tensors are replaced by their places among the saved ones."""

    run: Callable[[list[Tensor | None]], Tensor]
    operands: tuple[_Place, ...]
    slot: Slot


_Place = Union[int, _Step, None]  # noqa: UP007


def remember(ctx: Any, operands: Sequence[Operand]) -> None:
    """Save the operands for backward, each tensor once."""
    if not torch.compiler.is_compiling() and _are_distinct_tensors(operands):
        ctx.places = None
        ctx.save_for_backward(*operands)
        return
    tensors: list[Tensor] = []
    ctx.places = _places(operands, tensors, {})
    ctx.save_for_backward(*tensors)


_NONE = id(None)


def _are_distinct_tensors(operands: Sequence[Operand]) -> bool:
    """Whether each of them is None or a tensor that no other one is: then they are saved as they stand."""
    if Recipe in map(type, operands):
        return False
    places = list(map(id, operands))
    absent = places.count(_NONE)
    return len(set(places)) == len(places) - max(0, absent - 1)


# Neither this nor `_values` may be a nested function: a recursive one is a reference cycle, which keeps every tensor it
# sees until the garbage collector runs.
def _places(operands: Sequence[Operand], tensors: list[Tensor], steps: dict[Slot, _Step]) -> tuple[_Place, ...]:
    """The operands' places among the tensors, to which new ones are added; steps: those of recipes, by slot.

    Each recipe is visited once. In a chain of residual blocks each map has two readers, so as a tree the recipe would
    double with every block.
    """
    found: list[_Place] = []
    for operand in operands:
        if operand is None:
            found.append(None)
        elif isinstance(operand, Recipe):
            step = steps.get(operand.slot)
            if step is None:
                step = _Step(operand.run, _places(operand.operands, tensors, steps), operand.slot)
                steps[operand.slot] = step
            found.append(step)
        else:
            for place, tensor in enumerate(tensors):  # a search, since the compiler of torch 2.11 traces no ``id``
                if tensor is operand:
                    found.append(place)
                    break
            else:
                found.append(len(tensors))
                tensors.append(operand)
    return tuple(found)


def recall(ctx: Any) -> list[Tensor | None]:
    """The operands, in order; what was not kept is computed again, differentiably where autograd records."""
    if ctx.places is None:
        return list(ctx.saved_tensors)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _differentiable_values(ctx.places, ctx.saved_tensors, {})
    return _values(ctx.places, ctx.saved_tensors)


def _differentiable_values(
    places: Sequence[_Place], saved: Sequence[Tensor], made: dict[Slot, Tensor]
) -> list[Tensor | None]:
    """For ``create_graph=True``: each reader gets a separate part of the graph, and no slot is filled."""
    found: list[Tensor | None] = []
    for place in places:
        if isinstance(place, _Step):
            if place.slot not in made:
                made[place.slot] = place.run(_differentiable_values(place.operands, saved, made))
            found.append(made[place.slot])
        else:
            found.append(None if place is None else saved[place])
    return found


def _values(places: Sequence[_Place], saved: Sequence[Tensor]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for place in places:
        if place is None:
            found.append(None)
        elif isinstance(place, int):
            found.append(saved[place])
        else:
            if place.slot.value is None:
                with torch.no_grad():
                    place.slot.value = place.run(_values(place.operands, saved))
            found.append(place.slot.value)
    return found


def differentiate(
    forward: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of ``forward(*inputs)`` by plain autograd, themselves differentiable: for ``create_graph=True``."""
    with torch.enable_grad():
        # one alias per place: a tensor given twice has two gradients
        aliases = [t.view_as(t) if t is not None and t.requires_grad else t for t in inputs]
        pairs = [(y, g) for y, g in zip(forward(*aliases), grads, strict=True) if g is not None and y.requires_grad]
        wanted = [i for i, alias in enumerate(aliases) if alias is not None and alias.requires_grad]
        variables = [alias for alias in aliases if alias is not None and alias.requires_grad]
        found = torch.autograd.grad(
            [y for y, _ in pairs], variables, [g for _, g in pairs], create_graph=True, allow_unused=True
        )
    result: list[Tensor | None] = [None] * len(inputs)
    for i, grad in zip(wanted, found, strict=True):
        result[i] = grad
    return result
