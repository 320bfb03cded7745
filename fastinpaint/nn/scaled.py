"""`Scaled`: a map times one factor per channel or sample (squeeze-and-excitation), recomputed in backward.

p = a * s,   da = dp * s,   ds = sum dp * a        s [N, C, 1, ...], [N, 1, 1, ...] or [1, C, 1, ...]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinpaint.nn.activated import made
from fastinpaint.nn.deferred import HANDLERS, Deferred, defer
from fastinpaint.nn.observed import is_ordinary
from fastinpaint.nn.raw import Mode, Part, Raw, version
from fastinpaint.ops import channel_scale, saved
from fastinpaint.ops.dispatch.fast_path import applied
from fastinpaint.ops.norm_act import autograd as norm_act
from fastinpaint.ops.saved import Operand, Recipe, Slot, depth


class Kept(NamedTuple):
    """What backward keeps of the map, and the product's recipe."""

    map: Operand
    own: Recipe


class Scale(torch.autograd.Function):
    """``apply(kept, a, s) -> a * s``; neither the product nor a map that has a recipe is kept."""

    @staticmethod
    def forward(ctx: Any, kept: Kept, a: Tensor, s: Tensor) -> Tensor:
        ctx.slot = kept.own.slot
        saved.remember(ctx, (kept.map if s.requires_grad else None, s))
        return a * s

    @staticmethod
    def backward(ctx: Any, dp: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        a, s = saved.recall(ctx)
        assert s is not None
        da, ds = channel_scale.bwd(dp, a, s, ctx.needs_input_grad[1], ctx.needs_input_grad[2])
        ctx.slot.value = None  # the maker of a map is its last reader
        return None, da, ds


def multiply(operands: list[Tensor | None]) -> Tensor:
    """The function of a product's recipe."""
    a, s = operands
    return a * s  # type: ignore[operator]


class Scaled(Raw):
    """A product that exists, and its recipe."""

    def __init__(self, raw: Raw, s: Tensor) -> None:
        raw.check_unchanged()
        a = raw.tensor()
        kept = raw.recipe or a
        own = Recipe(multiply, (kept, s), Slot(), depth((kept,)) + 1)
        super().__init__(applied(Scale)(Kept(kept, own), a, s))
        if self.tensor().requires_grad:
            self.recipe = own
        self.version = version(self.tensor())


def scaled(map: Any, factor: Any) -> Any:
    """The product of a deferred activation and a factor, deferred; NotImplemented where only torch can compute it."""
    if not isinstance(map, Tensor) or not isinstance(factor, Tensor) or torch.compiler.is_compiling():
        return NotImplemented
    if not isinstance(map, Deferred) or (isinstance(factor, Deferred) and map.shape[2:].numel() == 1):
        map, factor = factor, map
    if not isinstance(map, Deferred) or not torch.is_grad_enabled():
        return NotImplemented
    if not isinstance(factor, Deferred) and not is_ordinary(factor):
        return NotImplemented
    shape, given = map.shape, factor.shape
    fits = len(given) == len(shape) > 3 and given[2:].numel() == 1 and given[0] in (1, shape[0]) and given.numel() > 1
    if not fits or given[1] not in (1, shape[1]) or factor.dtype != map.dtype or factor.device != map.device:
        return NotImplemented
    if not norm_act.runs(map._options.backend, map.device) or map._superseded() or map._mode != Mode.now():
        return NotImplemented
    if len(map._parts) != 1 or not (map.requires_grad or factor.requires_grad):
        return NotImplemented
    (part,) = map.parts()
    raw = part.raw if part.bare else made(part, map._options)
    if raw is None:
        return NotImplemented
    if isinstance(factor, Deferred):
        factor = factor.tensor()
    return defer(Deferred, [Part(Scaled(raw, factor))], map._options)


def _mul(input: Any, other: Any, *, out: Tensor | None = None) -> Any:
    return NotImplemented if out is not None else scaled(input, other)


def _operator(name: str) -> Callable[[Deferred, Any], Any]:
    in_torch = getattr(Deferred, name)

    def operate(self: Deferred, other: Any) -> Any:
        found = scaled(self, other)
        return in_torch(self, other) if found is NotImplemented else found

    operate.__name__ = name
    return operate


for _name in ("__mul__", "__rmul__"):
    setattr(Deferred, _name, _operator(_name))
HANDLERS.update({torch.mul: _mul, Tensor.mul: _mul, Tensor.__mul__: _mul, Tensor.__rmul__: _mul, torch.multiply: _mul})
