"""Hooks where activations leave the fused layers: there every map is a plain tensor."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from fastinpaint.nn import layers, region
from fastinpaint.nn.deferred import plain

TUNER = "_fastinpaint_tuner"  # the attribute of a model that measures its first calls, by one hook
JOINING = frozenset(("cat", "concat", "concatenate", "hstack", "stack"))


def draw_borders(model: nn.Module, fused: frozenset[type[nn.Module]]) -> list[str]:
    """Hooks at foreign modules, and at containers called from outside. Returns what there is to note.

    fused: the classes of fused layers.
    """
    notes: list[str] = []
    holders = {id(module) for module in model.modules() if any(type(m) in fused for m in module.modules())}
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> None:
        if id(module) in seen or type(module) in fused:
            return
        seen.add(id(module))
        if id(module) not in holders:
            handles = []
            if not isinstance(module, torch.jit.ScriptModule):  # which takes no such hook
                before = _hooked_inputs if type(module) is nn.Identity else _plain_inputs
                handles = [module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)]
        else:
            handles = [
                module.register_forward_pre_hook(_enter, with_kwargs=True, prepend=True),
                module.register_forward_hook(_leave, prepend=True, always_call=True),
            ]
            if insisting := _insists_on_tensors(module):
                module._fastinpaint_tensors = True  # type: ignore[assignment]
                _plain_children(module, "checkpoint_sequential" in _names(type(module)))
                notes.append(f"{name or 'the model'} {insisting}: its children hand on plain tensors.")
            for child_name, child in module.named_children():
                walk(child, f"{name}.{child_name}" if name else child_name)
        module._fastinpaint_borders = tuple(handles)  # type: ignore[assignment]

    walk(model, "")
    return notes


def _plain_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before a foreign module."""
    hooked = layers.hooked(module, _own_hooks(module))
    return plain(args, hooked), plain(kwargs, hooked)


def _hooked_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before an Identity, which hands on what it was given: other hooks see plain tensors."""
    return _plain_inputs(module, args, kwargs) if layers.hooked(module, _own_hooks(module)) else None


def _own_hooks(module: nn.Module) -> int:
    """How many hooks of the module are the library's own."""
    return len(vars(module).get("_fastinpaint_borders", ())) + (TUNER in vars(module))


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Before a container; other hooks see plain tensors."""
    if kwargs is None:  # this hook was removed by one before it, in this very call
        return None
    region.enter(module)
    hooked = layers.hooked(module, _own_hooks(module))
    return (plain(args, hooked), plain(kwargs, hooked)) if hooked or "_fastinpaint_tensors" in vars(module) else None


def _leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    """After a container, be it by an exception."""
    region.leave(module)
    hooked = layers.hooked(module, _own_hooks(module))
    outermost = hasattr(module, "fastinpaint_report") or not (torch.compiler.is_compiling() or region.inside())
    return plain(result, hooked) if outermost or hooked or module.__dict__.get("_fastinpaint_plain") else None


def _insists_on_tensors(module: nn.Module) -> str | None:
    """Why a container must be given plain tensors by its children, or None."""
    names = _names(type(module))
    if names & {"checkpoint", "checkpoint_sequential"}:
        return "uses checkpoint"
    if "is_tensor" in names or {"isinstance", "Tensor"} <= names:
        return "asks what is a Tensor"
    if "apply" in _names_in(getattr(type(module).forward, "__code__", None)):  # elsewhere it may initialise weights
        return "uses an autograd.Function"
    if any(isinstance(child, torch.jit.ScriptModule) for child in module.children()):
        return "holds a ScriptModule"
    return None


def below_views(model: nn.Module) -> set[nn.Module]:
    """The modules in whose results somebody may merge axes by ``Tensor.view``, which a channels-last map refuses."""
    return {below for above in model.modules() if "view" in _names(type(above)) for below in above.modules()}


def _names(kind: type[nn.Module]) -> set[str]:
    """Every name that the methods of a module class use."""
    own = [cls for cls in kind.__mro__ if cls.__module__.partition(".")[0] != "torch"]
    functions = [each for cls in own for each in vars(cls).values() if isinstance(each, FunctionType)]
    return {name for function in functions for name in _names_in(function.__code__)}


def _names_in(code: object) -> set[str]:
    """Every name that a function's code uses, and the functions in it."""
    if not isinstance(code, CodeType):
        return set()
    return {*code.co_names}.union(*map(_names_in, code.co_consts))


def joins_tuples(kind: type[nn.Module]) -> bool:
    """Whether the code of a module class gives torch.cat, or the like, a tuple."""
    if kind.__module__.partition(".")[0] == "torch":
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, SyntaxError, TypeError):  # there is none to be read
        return False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in JOINING]
    given = [value for call in calls for value in (*call.args, *(keyword.value for keyword in call.keywords))]
    return any(
        isinstance(value, ast.Tuple) or (isinstance(value, ast.Call) and _called(value) == "tuple") for value in given
    )


def _called(call: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _plain_children(module: nn.Module, through_sequential: bool) -> None:
    """Mark what a module calls directly: `torch.utils.checkpoint` sees tensors only, and must be given them."""
    groups = (nn.ModuleList, nn.ModuleDict, *((nn.Sequential,) if through_sequential else ()))
    for child in module.children():
        child._fastinpaint_plain = True  # type: ignore[assignment]
        if isinstance(child, groups):
            _plain_children(child, through_sequential)
