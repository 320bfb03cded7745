"""Which modules of an accelerated model are running in this thread: outside all, its layers give plain tensors.

What runs under a checkpoint is outside of what called the checkpoint: backward runs it again on its own, and must find
the same tensors. torch shows a checkpoint as the hooks on saved tensors that are in force. So is what runs without
gradients in a model that runs with them, such as the inside of an autograd.Function, which hands on tensors only.
"""

from __future__ import annotations

import threading

import torch
from torch import nn

top_hooks = torch._C._autograd._top_saved_tensors_default_hooks


class _Running(threading.local):
    def __init__(self) -> None:
        self.modules: list[tuple[nn.Module, object, bool]] = []


_running = _Running()


def enter(module: nn.Module) -> None:
    """A module of an accelerated model begins."""
    if not torch.compiler.is_compiling():
        leave(module)  # a KeyboardInterrupt may have ended it without a word
        _running.modules.append((module, saving(), torch.is_grad_enabled()))


def leave(module: nn.Module) -> None:
    """It ends, and with it all that began after it."""
    if not torch.compiler.is_compiling():
        for i in reversed(range(len(_running.modules))):
            if _running.modules[i][0] is module:
                del _running.modules[i:]
                return


def inside() -> bool:
    """Whether one is running. Not to be asked under a compiler, which sees the whole model."""
    if not _running.modules:
        return False
    _, saved_by, grad = _running.modules[-1]
    hooks = top_hooks(True)
    return (hooks[0] if hooks else None) is saved_by and grad == torch.is_grad_enabled()


def saving() -> object:
    """What packs the tensors that autograd saves now, or None where nothing does. Not to be asked under a compiler."""
    hooks = top_hooks(True)
    return hooks[0] if hooks else None
