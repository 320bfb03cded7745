"""Lets a model be run and changed, then restores it: values, buffers, hooks and random states."""

from __future__ import annotations

import collections
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (list, dict, set, collections.deque)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
    buffers. Plain attributes are restored too, including lists, dicts and sets. Forward hooks of torch's own utilities
    stay, because they compute weights.
    """
    modules = list(model.modules())
    kept = [dict(vars(module)) for module in modules]
    states, put_back = random_states(), generators(modules)
    aliases: dict[int, Any] = {}
    for module in modules:
        _replace(module, aliases)
    try:
        yield
    finally:
        for module, attributes in zip(modules, kept, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
        states()
        put_back()
        clear_casts()  # those of the sandbox's parameters


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
        elif type(value) in CONTAINERS and name != "_modules":
            own[name] = value.copy()


def _is_torchs(kind: str, hook: Any) -> bool:
    """Whether a hook computes a weight: `torch.nn.utils.weight_norm`, ``spectral_norm`` and ``prune`` do."""
    home = getattr(hook, "__module__", "") or ""
    return kind == "_forward_pre_hooks" and home.startswith("torch.nn.utils")


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
