"""Which modules of an accelerated model are running in this thread. Outside of all, its layers return plain tensors.

What runs under a checkpoint is outside of what called the checkpoint: backward runs it again on its own, and must find
the same tensors. torch shows a checkpoint as the hooks on saved tensors that are in force. So is what runs without
gradients in a model that runs with them, such as the inside of an autograd.Function, which returns tensors only.

torch runs no hook behind a call that a KeyboardInterrupt ends. So a call that hooks begin and end counts while its
frame is on the stack.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Found = TypeVar("Found")
top_hooks = torch._C._autograd._top_saved_tensors_default_hooks


class _Call(NamedTuple):
    module: nn.Module
    frame: FrameType | None  # of torch's call of the module; None where `leave` is sure to be called
    saved_by: object
    grad: bool
    known: dict[int, tuple[Tensor, int, object]]


class _Running(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Call] = []


_running = _Running()


def enter(module: nn.Module) -> None:
    """A module of an accelerated model begins. Called by a hook of the module."""
    if not torch.compiler.is_compiling():
        _drop_interrupted()
        _running.calls.append(_Call(module, sys._getframe(2), saving(), torch.is_grad_enabled(), {}))


def enter_if_outside(module: nn.Module, sure: bool = False) -> None:
    """As `enter`, for a module that need not be noted where another one that runs around it stands for both.

    sure: whether `leave` is called whatever happens.
    """
    if not torch.compiler.is_compiling():
        if inside():
            for call in _running.calls:
                if call.module is module:  # it calls itself: the inner call's end must not end the outer one
                    break
            else:
                return
        _drop_interrupted()
        frame = None if sure else sys._getframe(2)
        _running.calls.append(_Call(module, frame, saving(), torch.is_grad_enabled(), {}))


def leave(module: nn.Module) -> None:
    """The module ends, and with it all modules that began after it."""
    if not torch.compiler.is_compiling():
        for i in reversed(range(len(_running.calls))):
            if _running.calls[i].module is module:
                del _running.calls[i:]
                return


def once(tensor: Tensor, make: Callable[[Tensor], Found]) -> Found:
    """What `make` gives for a tensor, the same for all that ask inside one call of an accelerated module.

    It is kept until the call ends, with the tensor. So it is not used without gradients, where tensors go sooner.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not inside():
        return make(tensor)
    call = next(call for call in _running.calls if call.grad and call.saved_by is saving())
    known, version, found = call.known.get(id(tensor), (None, 0, None))
    if known is not tensor or version != tensor._version:
        found = make(tensor)
        call.known[id(tensor)] = (tensor, tensor._version, found)
    return found  # type: ignore[return-value]


def inside() -> bool:
    """Whether a module is running. Must not be called under a compiler, which sees the whole model."""
    calls = _running.calls
    if not calls:
        return False
    _, its_frame, saved_by, grad, _ = calls[-1]
    if its_frame is not None:
        frame = sys._getframe(1)
        while frame is not its_frame:
            frame = frame.f_back  # type: ignore[assignment]
            if frame is None:  # the call was interrupted; the one before it may still run
                _drop_interrupted()
                return inside()
    hooks = top_hooks(True)
    return (hooks[0] if hooks else None) is saved_by and grad == torch.is_grad_enabled()


def _drop_interrupted() -> None:
    """Forget the calls that are no longer on the stack."""
    while _running.calls and _running.calls[-1].frame is not None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame is _running.calls[-1].frame:
                return
            frame = frame.f_back
        _running.calls.pop()


def saving() -> object:
    """The current packing of saved tensors, or None. Must not be called under a compiler."""
    hooks = top_hooks(True)
    return hooks[0] if hooks else None
