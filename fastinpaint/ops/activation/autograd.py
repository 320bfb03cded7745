"""`activation` as a registered operator and a node of the graph. It keeps the raw maps, never the activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from fastinpaint.ops import saved
from fastinpaint.ops.activation import reference
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.dispatch.fast_path import (
    TAGS,
    apart,
    applied,
    below_autograd,
    can_bypass_dispatcher,
    dense,
    each_once,
    empty_if_none,
    no_autocast,
    none_if_empty,
    register,
)
from fastinpaint.ops.saved import Operand
from fastinpaint.ops.types import Source, flatten, unflatten

OP = "activation"
_library = Library("fastinpaint", "FRAGMENT")
_library.define("activation_fwd(Tensor?[] sources, bool[] relus, str backend) -> Tensor", tags=TAGS)
_library.define(
    "activation_bwd(Tensor da, Tensor?[] sources, bool[] relus, bool[] needs, str backend) -> Tensor[]", tags=TAGS
)


def _fwd(flat: list[Tensor | None], relus: list[bool], backend: str) -> Tensor:
    with no_autocast(flat[0].device):  # type: ignore[union-attr]
        return _fwd_now(flat, relus, backend)


def _fwd_now(flat: Sequence[Tensor | None], relus: Sequence[bool], backend: str) -> Tensor:
    sources = unflatten(flat, relus)
    a = registry.choose(OP, backend, sources[0].x.device, sources).fwd(sources)
    return a.clone() if a is sources[0].x else a


_modules: dict[tuple[Any, ...], ModuleType] = {}


def module_of(sources: Sequence[Source], backend: str) -> ModuleType:
    """The module that runs these sources, remembered by all that the choice depends on."""
    question: tuple[Any, ...] = (backend, *registry.settings())
    for x, _, _, _, _, addend in sources:
        question += (x.device, x.dtype, x.dim(), None if addend is None else (addend.device, addend.dtype))
    found = _modules.get(question)
    if found is None:
        found = _modules[question] = registry.choose(OP, backend, sources[0].x.device, sources)
    return found


def _fwd_fake(flat: list[Tensor | None], relus: list[bool], backend: str) -> Tensor:
    sources = unflatten(flat, relus)
    module = registry.choose(OP, backend, sources[0].x.device, sources)
    a = reference.fwd(sources)
    return dense(a) if module.CHANNELS_LAST else a.clone() if a is sources[0].x else a


def _bwd(da: Tensor, flat: list[Tensor | None], relus: list[bool], needs: list[bool], backend: str) -> list[Tensor]:
    with no_autocast(da.device):
        return [empty_if_none(g, da) for g in _bwd_now(da, flat, relus, needs, backend)]


def _bwd_now(
    da: Tensor, flat: Sequence[Tensor | None], relus: Sequence[bool], needs: Sequence[bool], backend: str
) -> list[Tensor | None]:
    sources = unflatten(flat, relus)
    grads = registry.choose(OP, backend, da.device, sources).bwd(da, sources, needs)
    return apart([g for grad in grads for g in grad], da)


def _bwd_fake(
    da: Tensor, flat: list[Tensor | None], relus: list[bool], needs: list[bool], backend: str
) -> list[Tensor]:
    sources = unflatten(flat, relus)
    module = registry.choose(OP, backend, da.device, sources)
    grads = reference.bwd(da, sources, needs)
    if module.CHANNELS_LAST:
        grads = [grad._replace(x=None if grad.x is None else dense(grad.x)) for grad in grads]
    return [empty_if_none(g, da) for g in apart([g for grad in grads for g in grad], da)]


for _name, _implementation, _fake in (("activation_fwd", _fwd, _fwd_fake), ("activation_bwd", _bwd, _bwd_fake)):
    register(_library, _name, _implementation, _fake)


class Activation(torch.autograd.Function):
    """``apply(relus, backend, recipes, *flatten(sources))``; recipes: one operand a tensor, or None to keep all."""

    @staticmethod
    def forward(
        ctx: Any,
        relus: tuple[bool, ...],
        backend: str,
        recipes: Sequence[Operand] | None,
        *flat: Tensor | None,
    ) -> Tensor:
        if can_bypass_dispatcher(*flat):
            sources = unflatten(flat, relus)
            module = module_of(sources, backend)
            with below_autograd(sources[0].x.device):
                a = module.fwd(sources)
                a = a.clone() if a is sources[0].x else a
        else:
            a = torch.ops.fastinpaint.activation_fwd.default(list(flat), list(relus), backend)
        ctx.relus, ctx.backend = relus, backend
        ctx.channels = [x.shape[1] for x in flat[::5] if x is not None]
        # The addend's value has no part in any gradient, nor has a raw map that is taken as it is.
        kept: list[Operand] = list(flat if recipes is None else recipes)
        for i, relu in enumerate(relus):
            kept[5 * i + 4] = None
            if not relu and flat[5 * i + 2] is None:
                kept[5 * i] = None
        saved.remember(ctx, kept)
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        flat = saved.recall(ctx)
        parts = da.split(ctx.channels, 1)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (None, None, None, *_differentiable(ctx, parts, flat))
        needs = [x is not None and any(ctx.needs_input_grad[3 + 5 * i : 7 + 5 * i]) for i, x in enumerate(flat[::5])]
        if any(needs):
            # a map that was not kept has no gradient to compute: its part of da stands in for its shape
            shaped = [parts[i // 5] if i % 5 == 0 and t is None else t for i, t in enumerate(flat)]
            if can_bypass_dispatcher(da, *shaped):
                sources, found = unflatten(shaped, ctx.relus), []
                module = module_of(sources, ctx.backend)
                with below_autograd(da.device):
                    for grad in module.bwd(da, sources, needs):
                        found += grad
                    found = apart(found, da)
            else:
                packed = torch.ops.fastinpaint.activation_bwd.default(da, shaped, list(ctx.relus), needs, ctx.backend)
                found = list(map(none_if_empty, packed))
        grads: list[Tensor | None] = []
        for i, part in enumerate(parts):
            if needs[i]:
                grads += found[5 * i : 5 * i + 4]
            else:
                grads += [part if flat[5 * i] is None else None, None, None, None]
            grads.append(part if ctx.needs_input_grad[7 + 5 * i] else None)
        return (None, None, None, *grads)


def _differentiable(ctx: Any, parts: Sequence[Tensor], flat: list[Tensor | None]) -> list[Tensor | None]:
    """Backward for ``create_graph=True``, by plain torch."""
    grads: list[Tensor | None] = []
    for i, (part, relu) in enumerate(zip(parts, ctx.relus, strict=True)):
        x, mean, scale, shift, _ = flat[5 * i : 5 * i + 5]
        if x is None:
            grads += [part, None, None, None]
        else:
            inputs = [x, mean, scale, shift]
            grads += saved.differentiate(
                lambda x, mean, scale, shift, relu=relu: [reference.fwd([Source(x, mean, scale, shift, relu)])],
                inputs,
                [part],
            )
        grads.append(part if ctx.needs_input_grad[7 + 5 * i] else None)
    return grads


def apply(sources: Sequence[Source], backend: str | None = None, recipes: Sequence[Operand] | None = None) -> Tensor:
    """The activation of checked sources; see `Activation` for the recipes."""
    run, arguments = node(sources, backend or "auto", recipes)
    return run(*arguments)


def node(
    sources: Sequence[Source], backend: str, recipes: Sequence[Operand] | None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What adds an `Activation` to the graph, and its arguments, of checked sources."""
    relus = tuple([source.relu for source in sources])
    return applied(Activation), (relus, backend, recipes, *each_once(flatten(sources)))
