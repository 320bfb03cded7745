"""The class of an accelerated model: its own class with another ``forward``, which enters and leaves the model.

Hooks would do the same, but ``torch.cuda.make_graphed_callables`` takes no module that has any. Where the class cannot
have another ``forward``, the model gets hooks.
"""

from __future__ import annotations

import copyreg
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fastinpaint.acceleration.borders import BORDERS, finished
from fastinpaint.acceleration.kinds import is_fusable, is_fused
from fastinpaint.nn import region
from fastinpaint.nn.deferred import plain
from fastinpaint.nn.observed import hooked

BEFORE = "_fastinpaint_before"  # attribute: by name, what runs before a call, as a forward pre-hook with kwargs
_derived: dict[type[nn.Module], type[nn.Module]] = {}
Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


class Root(nn.Module):
    """What derived classes share."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Nothing: a class that notes its subclasses must not note the derived one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle and copy: the derived class has no name that can be imported, so its own class stands for it."""
        found: Any = super().__reduce_ex__(protocol)
        if found[0] is copyreg.__newobj__ and found[1][0] is type(self):  # type: ignore[attr-defined]
            return _remade, (own_class(type(self)), *found[1][1:]), *found[2:]
        return found


def own_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a model had before it was accelerated."""
    return kind.__bases__[1] if Root in kind.__bases__ else kind


def can_derive(model: nn.Module) -> bool:
    """Whether the model's class can have another ``forward``."""
    kind = type(model)
    if issubclass(kind, Root):
        return Root in kind.__bases__  # else somebody derived a class from it
    own = "forward" in vars(model) or is_parametrized(model) or isinstance(model, torch.jit.ScriptModule)
    return not (own or is_fusable(model) or is_fused(model))


def fit(model: nn.Module, kind: type[nn.Module] | None = None) -> None:
    """Give the model the class that its attributes ask for, derived from its own one or, if given, from kind."""
    if can_derive(model):
        kind = kind or own_class(type(model))
        wanted = _class_of(kind) if vars(model).get(BORDERS) == () or vars(model).get(BEFORE) else kind
        if type(model) is not wanted:
            object.__setattr__(model, "__class__", wanted)  # a model may let nobody set an attribute


def watch(model: nn.Module, name: str, before: Before) -> None:
    """From now on `before` runs before each call of the model, and may return other arguments."""
    if can_derive(model):
        vars(model).setdefault(BEFORE, {})[name] = before
        fit(model)
    else:
        vars(model)[f"{name}_hook"] = model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)


def unwatch(module: nn.Module, name: str) -> None:
    """Undo `watch`."""
    vars(module).get(BEFORE, {}).pop(name, None)
    if not vars(module).get(BEFORE, True):
        del vars(module)[BEFORE]
    fit(module)
    handle = vars(module).pop(f"{name}_hook", None)
    if handle is not None:
        handle.remove()


def _class_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class derived from kind, made once."""
    found = _derived.get(kind)
    if found is None:
        body: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        body["forward"] = _around(kind)
        found = _derived[kind] = types.new_class(kind.__name__, (Root, kind), {}, lambda names: names.update(body))
    return found


def _remade(kind: type[nn.Module], *given: Any) -> nn.Module:
    """An empty module of the class derived from kind."""
    found = _class_of(kind)
    return found.__new__(found, *given)


def _around(kind: type[nn.Module]) -> Callable[..., Any]:
    """A model's ``forward`` that enters the model, runs its own class's, and leaves it with plain tensors."""

    @functools.wraps(kind.forward, updated=())
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return plain(kind.forward(self, *args, **kwargs))  # read now: somebody may have replaced it
        for before in tuple(vars(self).get(BEFORE, {}).values()):
            given = before(self, args, kwargs)
            if given is not None:
                args, kwargs = given
        if BORDERS not in vars(self):
            return kind.forward(self, *args, **kwargs)
        try:
            region.enter_if_outside(self, sure=True)
            result = kind.forward(self, *args, **kwargs)
        finally:
            region.leave(self)
        return finished(self, result, hooked(self))

    return forward
