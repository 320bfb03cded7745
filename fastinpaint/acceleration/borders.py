"""Hooks where activations leave the fused layers. They turn every map into a plain tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fastinpaint.acceleration.kinds import row_class
from fastinpaint.acceleration.settled import KEEPERS, Keepers, settle_objects
from fastinpaint.nn import layers, region
from fastinpaint.nn.deferred import plain
from fastinpaint.nn.deferred_tensor import DeferredTensor
from fastinpaint.nn.linear import forget
from fastinpaint.nn.sample_norms import contiguous_gradient
from fastinpaint.nn.sequential import Sequential

BORDERS = "_fastinpaint_borders"  # attribute of a swapped model's modules: the handles of their hooks
GUARDS = "_fastinpaint_guards"  # of modules that may call torch's instance norm: the handle of their hook
TUNER = "_fastinpaint_tuner"  # of a model that measures its first calls
FIRST_CALL = "_fastinpaint_first_call"  # of a model that compiles its kernels when it is first called
TUNER_HOOK, FIRST_CALL_HOOK = f"{TUNER}_hook", f"{FIRST_CALL}_hook"  # attributes that `root.watch` sets


def add_border_hooks(model: nn.Module, is_fused: Callable[[nn.Module], bool], root: bool) -> None:
    """Put hooks on foreign modules and on containers called from outside.

    Args:
        is_fused: whether a module is a fused layer.
        root: whether the model itself gets hooks too: see `fastinpaint.acceleration.root`.
    """
    holders = {id(module) for module in model.modules() if any(map(is_fused, module.modules()))}
    seen: set[int] = set()

    def walk(module: nn.Module) -> None:
        if id(module) in seen or is_fused(module):
            return
        seen.add(id(module))
        handles = list[Any]()
        if id(module) not in holders:
            # a script does not support this hook
            if not isinstance(module, torch.jit.ScriptModule) and (root or module is not model):
                before = BEFORE.get(type(module), _plain_inputs)
                handles = [module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)]
        else:
            if module is not model and (row := row_class(type(module))) is not None:
                module.__class__ = row
            elif type(module) is nn.Sequential and root:
                module.__class__ = Sequential
            if root or module is not model:
                handles = [
                    module.register_forward_pre_hook(_enter, with_kwargs=True, prepend=True),
                    module.register_forward_hook(_leave, prepend=True, always_call=True),
                ]
            wraps = type(module).__module__.startswith(("torch.nn.parallel.", "torch.distributed."))
            for child in module.children():
                walk(child)
                if wraps:  # it gives what its child returns to an autograd.Function
                    vars(child)["_fastinpaint_plain"] = True
        vars(module)[BORDERS] = tuple(handles)

    walk(model)
    vars(model)[KEEPERS] = Keepers()


def guard_gradients(model: nn.Module) -> None:
    """Put hooks on torch's instance norms, and on other leaves that may call it; see `contiguous_gradient`."""
    for module in model.modules():
        if "_fastinpaint" in vars(module) or isinstance(module, torch.jit.ScriptModule):
            continue
        own = not any(True for _ in module.children()) and type(module).__module__.partition(".")[0] != "torch"
        if own or isinstance(module, _InstanceNorm):
            handle = module.register_forward_hook(_guarded, prepend=True)
            vars(module)[GUARDS] = (handle,)


def _guarded(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    """Runs after such a module."""
    return contiguous_gradient(result, 5 if isinstance(module, nn.InstanceNorm3d) else 4)


def _plain_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs before a foreign module."""
    hooked = layers.hooked(module, _own_hooks(module))
    return plain(args, hooked), plain(kwargs, hooked)


def _hooked_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs before an Identity, which passes its input on: other hooks see plain tensors."""
    return _plain_inputs(module, args, kwargs) if layers.hooked(module, _own_hooks(module)) else None


def _pooled_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs before pooling, which reads deferred activations. Compilers and other hooks see plain tensors."""
    return (_plain_inputs if torch.compiler.is_compiling() else _hooked_inputs)(module, args, kwargs)


POOLS = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
BEFORE = {nn.Identity: _hooked_inputs, **dict.fromkeys(POOLS, _pooled_inputs)}


def _own_hooks(module: nn.Module) -> int:
    """The number of the module's hooks that belong to this library."""
    own = vars(module)
    handles = len(own.get(BORDERS, ())) + len(own.get(GUARDS, ()))
    return handles + (TUNER_HOOK in own) + (FIRST_CALL_HOOK in own)


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Runs before a container: other hooks see plain tensors."""
    if kwargs is None:  # an earlier hook removed this one during this call
        return None
    region.enter_if_outside(module)
    hooked = layers.hooked(module, _own_hooks(module))
    return (plain(args, hooked), plain(kwargs, hooked)) if hooked else None


def _leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    """Runs after a container, also when it raised."""
    region.leave(module)
    hooked, compiling = layers.hooked(module, _own_hooks(module)), torch.compiler.is_compiling()
    # read from the attributes' dictionary: torch makes a sentence for each attribute that a module lacks
    own = vars(module)
    outermost = "fastinpaint_report" in own or "_fastinpaint_plain" in own or not (compiling or region.inside())
    if outermost and not compiling:
        return finished(module, result, hooked)
    return plain(result, hooked) if outermost or hooked else None


def finished(model: nn.Module, result: Any, hooked: bool) -> Any:
    """What an accelerated model returns, as plain tensors, after `region.leave`. hooked: whether hooks will see it."""
    if (keepers := vars(model).get(KEEPERS)) is not None:
        keepers.settle(model)
    if type(result) is DeferredTensor and not region.inside():
        steps = result.last_steps()
        for step in steps:  # run here, to keep the call stack short
            if step.x is None:
                apply, arguments = step.prepare()
                step.finish(arguments, apply(*arguments))
        if steps:
            result.become(steps[-1])
    forget(result)
    settle_objects(result)
    return plain(result, hooked)
