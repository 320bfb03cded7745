"""`accelerate`: the layers of any model, in place, as fused ones; `restore` takes it back."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, field
from itertools import pairwise
from types import CodeType, FunctionType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.padding import _ConstantPadNd
from torch.nn.utils.parametrize import is_parametrized

from fastinpaint.nn import layers, region
from fastinpaint.nn.deferred import plain
from fastinpaint.nn.padded import zeros_of
from fastinpaint.nn.raw import Options
from fastinpaint.ops.conv_block.zero_padding import absorbed
from fastinpaint.ops.dispatch import registry as backends

Model = TypeVar("Model", bound=nn.Module)

FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: layers.Conv2d,
    nn.Conv3d: layers.Conv3d,
    nn.ConvTranspose2d: layers.ConvTranspose2d,
    nn.ConvTranspose3d: layers.ConvTranspose3d,
    nn.BatchNorm2d: layers.BatchNorm2d,
    nn.BatchNorm3d: layers.BatchNorm3d,
    nn.SyncBatchNorm: layers.SyncBatchNorm,
    nn.ReLU: layers.ReLU,
    nn.ZeroPad2d: layers.ZeroPad2d,
    nn.ZeroPad3d: layers.ZeroPad3d,
    nn.ConstantPad2d: layers.ConstantPad2d,
    nn.ConstantPad3d: layers.ConstantPad3d,
}
PLAIN = {fused: plain_class for plain_class, fused in FUSED.items()}
MEMORY = ("default", "low")
JOINING = frozenset(("cat", "concat", "concatenate", "hstack", "stack"))


@dataclass
class Report:
    """What `accelerate` did, by the modules' names.

    Attributes:
        swapped: the layers that are fused now.
        left: the layers of a kind that could have been, and why they were not.
        notes: what else there is to know.
    """

    swapped: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} layers swapped, {len(self.left)} left."]
        lines += [f"  left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def accelerate(model: Model, backend: str = "auto", memory: str = "default") -> Model:
    """Make a model's convolutions, batch norms, ReLUs and padding by zeros fused, in place.

    Modules keep their identity: names, parameters, buffers, ``state_dict`` and optimiser state stay as they are, and
    checkpoints go both ways. Inside the model activations are deferred; what the model returns, what its foreign layers
    get and what hooks see are plain tensors. ``model.fastinpaint_report`` says what was swapped, what was left and why.

    Those tensors may be channels-last, as after ``model.to(memory_format=torch.channels_last)``, but below a module
    whose own code calls ``view``; outside of the model ``reshape`` merges the channels with another axis. The gradient
    of an inner activation, be it a result of the model too, is to be watched by a hook of its module, or by
    ``retain_grad`` before another layer reads it: what comes later has no gradient, never a part of one. A hook that is
    put before the others (``prepend=True``) after `accelerate` may see a `fastinpaint.nn.Deferred`.
    ``torch.jit.script`` and ``torch.fx`` take the plain model: script or trace it first, or `restore` it.

    Args:
        model: any ``nn.Module``; changed and returned. An accelerated model may be given again with other options.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS` or "auto".
        memory: "default": backward keeps every raw map and recomputes batch norm, ReLU, additions and concatenations.
            "low": it also computes again what is cheap: maps whose values cost few multiply-adds.

    Returns:
        The model.

    Raises:
        ValueError: backend or memory is unknown.
    """
    backends.requested(backend)
    if memory not in MEMORY:
        raise ValueError(f"accelerate: memory must be one of {', '.join(MEMORY)}, got {memory!r}.")
    restore(model)
    kinds = {type(module) for module in model.modules()}
    options, report, unread = Options(backend, memory, any(map(_joins_tuples, kinds))), Report(), _unread_zeros(model)
    merging = _below_views(model)
    for name, module in list(model.named_modules()):
        fused = FUSED.get(type(module))
        reason = why_not(module) or unread.get(module)
        if reason is not None:
            report.left[name] = reason
        elif fused is not None:
            module.__class__ = fused
            module._fastinpaint = options._replace(contiguous=module in merging)
            module._fastinpaint_accelerated = True
            report.swapped.append(name)
    _draw_borders(model, report)
    model.fastinpaint_report = report  # type: ignore[assignment]
    return model


def restore(model: Model) -> Model:
    """Take `accelerate` back: every module has its own class again. Returns the model."""
    for module in model.modules():
        if "_fastinpaint" in vars(module) and (plain_class := _plain_class(module)) is not None:
            module.__class__ = plain_class
            del module._fastinpaint, module._fastinpaint_accelerated
        for handle in vars(module).pop("_fastinpaint_borders", ()):
            handle.remove()
        for name in ("_fastinpaint_plain", "_fastinpaint_tensors", "fastinpaint_report"):
            vars(module).pop(name, None)
    return model


def _plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a fused layer had; None for another module.

    `torch.nn.utils.parametrize` gave the layer a class of its own, derived from the fused one: that is made anew.
    """
    kind, parent = type(module), type(module).__bases__[0]
    if is_parametrized(module) and parent in PLAIN:
        own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        return type(kind.__name__, (PLAIN[parent],), own)
    return PLAIN.get(kind)


def why_not(module: nn.Module) -> str | None:
    """Why a layer that could be fused by its kind is not, in one sentence, or None."""
    if type(module) not in FUSED:
        kind = next((k for k in FUSED if isinstance(module, k) and type(module) not in PLAIN), None)
        if kind is None:
            return None
        return f"{type(module).__name__} is a subclass of {kind.__name__}, and may compute something else."
    if isinstance(module, _ConvNd):
        if module.padding_mode != "zeros":
            return f"padding_mode is {module.padding_mode!r}; only 'zeros' is fused."
        ends = module._reversed_padding_repeated_twice
        if module.padding == "same" and ends[::2] != ends[1::2]:
            return "padding='same' pads the two ends of an axis differently here."
    return layers.pads_otherwise(module) if isinstance(module, _ConstantPadNd) else None


def _unread_zeros(model: nn.Module) -> dict[nn.Module, str]:
    """The padding modules that an nn.Sequential gives to something that must be given a plain tensor, and why."""
    reasons: dict[nn.Module, list[str | None]] = {}
    for row in model.modules():
        if not isinstance(row, nn.Sequential) or type(row).forward is not nn.Sequential.forward:
            continue
        children = [child for child in row if type(child) is not nn.Identity]
        for pad, reader in pairwise(children):
            if type(pad) in FUSED and isinstance(pad, _ConstantPadNd):
                reasons.setdefault(pad, []).append(_why_unread(pad, reader))
    return {pad: found[0] for pad, found in reasons.items() if found[0] is not None and None not in found}


def _why_unread(pad: _ConstantPadNd, reader: nn.Module) -> str | None:
    """Why a module cannot take the zeros around its input for padding of its own, or None if it may."""
    if type(reader) not in FUSED and any(type(module) in FUSED for module in reader.modules()):
        return None  # a container: which of them reads it is not known
    if not isinstance(reader, _ConvNd) or type(reader) not in FUSED:
        return f"only a convolution takes zeros for padding of its own, and {type(reader).__name__} follows."
    if (reason := why_not(reader)) is not None:
        return f"the convolution that follows is left: {reason}"
    around = zeros_of(pad.padding, 2 + len(reader.kernel_size))
    if around is None:
        return f"its padding {pad.padding} is none of the spatial axes of the convolution that follows."
    found = absorbed(layers.geometry_of(reader), around)
    return found if isinstance(found, str) else None


def _draw_borders(model: nn.Module, report: Report) -> None:
    """Hooks where activations leave the fused layers: at foreign modules, and at containers called from outside."""
    holders = {id(module) for module in model.modules() if any(type(m) in PLAIN for m in module.modules())}
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> None:
        if id(module) in seen or type(module) in PLAIN:
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
                report.notes.append(f"{name or 'the model'} {insisting}: its children hand on plain tensors.")
            for child_name, child in module.named_children():
                walk(child, f"{name}.{child_name}" if name else child_name)
        module._fastinpaint_borders = tuple(handles)  # type: ignore[assignment]

    walk(model, "")


def _plain_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before a foreign module."""
    hooked = layers.hooked(module, len(module._fastinpaint_borders))  # type: ignore[arg-type]
    return plain(args, hooked), plain(kwargs, hooked)


def _hooked_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before an Identity, which hands on what it was given: other hooks see plain tensors."""
    return _plain_inputs(module, args, kwargs) if layers.hooked(module, 1) else None


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before a container; other hooks see plain tensors."""
    region.enter(module)
    hooked = layers.hooked(module, 2)
    return (plain(args, hooked), plain(kwargs, hooked)) if hooked or "_fastinpaint_tensors" in vars(module) else None


def _leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    """After a container, be it by an exception."""
    region.leave(module)
    hooked = layers.hooked(module, 2)
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


def _below_views(model: nn.Module) -> set[nn.Module]:
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


def _joins_tuples(kind: type[nn.Module]) -> bool:
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
