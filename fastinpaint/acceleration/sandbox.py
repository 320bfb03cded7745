"""Lets a model be run and changed, then restores it: values, buffers, hooks and random states."""

from __future__ import annotations

import collections
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastinpaint.acceleration.root import BEFORE, fit
from fastinpaint.nn.observed import computes_weight

CONTAINERS = (list, dict, set, collections.deque)
TORCHS = frozenset(vars(nn.Module()))  # the attributes of every module
CALL = "_call_impl"  # the attribute through which a module is called
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", BEFORE)


def why_not(model: nn.Module) -> str | None:
    """Why a model cannot run in a sandbox, in one sentence, or None."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if type(tensor) not in (nn.Parameter, Tensor, nn.Buffer):
            return f"{name} is a {type(tensor).__name__}, not a plain parameter or buffer."
        if tensor.device.type == "meta":
            return f"{name} is on the meta device."
    scripted = next((name for name, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
    return None if scripted is None else f"{scripted or 'the model'} is a ScriptModule, whose tensors are its own."


@contextmanager
def sandbox(model: nn.Module) -> Iterator[None]:
    """Inside, the model has new parameters that share the values, copies of its buffers, and no hooks of others.

    A backward pass touches no gradient and no hook of the model's own parameters; a forward pass changes none of its
    buffers. Plain attributes are restored too, including tensors, lists, dicts and sets. So are modules that the model
    holds in plain lists and dicts, as a teacher whose weights must not be saved. Forward hooks of torch's own utilities
    stay, because they compute weights. Calls of the model in other threads wait until the end.
    """
    modules = all_modules(model)
    kept = [dict(vars(module)) for module in modules]
    states, put_back = random_states(), generators(modules)
    aliases: dict[int, Any] = {}
    over = threading.Event()
    vars(model)[CALL] = partial(_called, model, threading.get_ident(), over)  # first: from now on calls wait
    for module in modules:
        _replace(module, aliases)
    try:
        yield
    finally:
        for module, attributes in zip(reversed(modules), reversed(kept), strict=True):  # the model is the last
            own = vars(module)
            for name in own.keys() - attributes.keys() - {CALL}:
                del own[name]
            own.update(attributes)
        fit(model)
        if CALL not in kept[0]:
            vars(model).pop(CALL, None)
        states()
        put_back()
        over.set()
        clear_casts()  # those of the sandbox's parameters


def _called(model: nn.Module, own: int, over: threading.Event, /, *args: Any, **kwargs: Any) -> Any:
    """A call of a model in the sandbox of the thread `own`."""
    if threading.get_ident() == own:
        return nn.Module._call_impl(model, *args, **kwargs)
    over.wait()
    return model(*args, **kwargs)


def clear_casts() -> None:
    """Let autocast cast every weight again, as it does in a training loop that enters it in each step."""
    if torch.is_autocast_enabled("cpu") or (torch.cuda.is_initialized() and torch.is_autocast_enabled("cuda")):
        torch.clear_autocast_cache()


def _replace(module: nn.Module, aliases: dict[int, Any]) -> None:
    """Give one module its own tensors, containers and hooks. What modules share stays shared."""
    own = vars(module)
    for name, value in list(own.items()):
        if name in HOOKS:
            own[name] = OrderedDict((key, hook) for key, hook in value.items() if _is_torchs(name, hook))
        elif name == "_parameters":
            own[name] = {key: _alias(value, aliases) for key, value in value.items()}
        elif name == "_buffers":
            own[name] = {key: _copy(value, aliases) for key, value in value.items()}
        elif name != "_modules":
            own[name] = _still(value, aliases)


def _still(value: Any, aliases: dict[int, Any]) -> Any:
    """The value of an attribute, copied where it may change in place: tensors, and containers with their tensors."""
    if _is_constant(value):
        return _copy(value, aliases)
    if type(value) not in CONTAINERS:
        return value
    if id(value) not in aliases:
        aliases[id(value)] = found = value.copy()
        if not isinstance(value, set):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if _is_constant(item):
                    found[key] = _copy(item, aliases)
    return aliases[id(value)]


def _is_constant(value: Any) -> bool:
    """Whether it is a plain tensor with values and without gradients, which code may change in place."""
    return type(value) is Tensor and not value.requires_grad and value.device.type != "meta"


def all_modules(model: nn.Module) -> list[nn.Module]:
    """A model's modules, and those that they hold in plain lists, tuples and dicts, which torch does not see."""
    found = {id(module): module for module in model.modules()}
    left = list(found.values())
    while left:
        for value in vars(left.pop()).values():
            if type(value) not in (list, tuple, dict):
                continue
            for item in value.values() if isinstance(value, Mapping) else value:
                if isinstance(item, nn.Module) and id(item) not in found:
                    hidden = {id(module): module for module in item.modules() if id(module) not in found}
                    found |= hidden
                    left += hidden.values()
    return list(found.values())


def attributes(modules: list[nn.Module]) -> Callable[[], None]:
    """Returns a function that restores the plain attributes of modules that a forward pass may change, by value.

    So every plan that is measured begins with the same counters, caches and hidden states.
    """
    kept = [{name: value for name, value in vars(module).items() if _is_state(name, value)} for module in modules]
    first: dict[int, Any] = {}  # what modules share stays shared
    still = [{name: _still(value, first) for name, value in names.items()} for names in kept]

    def put_back() -> None:
        aliases: dict[int, Any] = {}
        for module, names in zip(modules, still, strict=True):
            own = vars(module)
            for name in [name for name, value in own.items() if name not in names and _is_state(name, value)]:
                del own[name]
            own.update({name: _still(value, aliases) for name, value in names.items()})

    return put_back


def _is_state(name: str, value: Any) -> bool:
    """Whether an attribute is the user's and holds a value that a forward pass may replace or change.

    All of them belong together: a cache and the shape it was made for, which is a tuple.
    """
    if name in TORCHS or name.startswith("_fastinpaint"):
        return False
    return not callable(value)


def carries_graph(modules: list[nn.Module]) -> bool:
    """Whether a module holds a result of its last call with the graph behind it, as a recurrent state."""
    for module in modules:
        for name, value in vars(module).items():
            if name in TORCHS:
                continue
            items = value.values() if isinstance(value, dict) else value if type(value) in CONTAINERS else (value,)
            if any(isinstance(item, Tensor) and item.requires_grad and not item.is_leaf for item in items):
                return True
    return False


def _is_torchs(kind: str, hook: Any) -> bool:
    """Whether a hook computes a weight."""
    return kind == "_forward_pre_hooks" and computes_weight(hook)


def _alias(parameter: nn.Parameter | None, aliases: dict[int, Any]) -> nn.Parameter | None:
    if parameter is None:
        return None
    if id(parameter) not in aliases:
        aliases[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return aliases[id(parameter)]


def _copy(buffer: Tensor | None, aliases: dict[int, Any]) -> Tensor | None:
    if buffer is None:
        return None
    if id(buffer) not in aliases:
        aliases[id(buffer)] = buffer.detach().clone()
    return aliases[id(buffer)]


def random_states() -> Callable[[], None]:
    """Returns a function that restores all global random states: torch's, every used GPU's, Python's and numpy's."""
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def put_back() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return put_back


def generators(modules: list[nn.Module]) -> Callable[[], None]:
    """Returns a function that restores the random generators that modules hold as attributes."""
    found = [value for module in modules for value in vars(module).values()]
    torchs = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    numpys = [(g, g.bit_generator.state) for g in found if isinstance(g, np.random.Generator)]
    pythons = [(g, g.getstate()) for g in found if isinstance(g, random.Random)]

    def put_back() -> None:
        for of_torch, tensor in torchs:
            of_torch.set_state(tensor)
        for of_numpy, mapping in numpys:
            of_numpy.bit_generator.state = mapping
        for of_python, state in pythons:
            of_python.setstate(state)

    return put_back
