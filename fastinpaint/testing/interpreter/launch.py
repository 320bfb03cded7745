"""Wraps a launch: shadow memory for its arguments, shuffled programs, a record of its name."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import (
    GridExecutor,
    InterpretedFunction,
    InterpreterBuilder,
    InterpreterOptions,
    interpreter_builder,
)

from fastinpaint.testing.interpreter import memory, numerics
from fastinpaint.testing.interpreter.memory import Memory, Shadow


@dataclass(frozen=True)
class Settings:
    """The checks in force.

    Attributes:
        races: look for races between programs.
        poison: fill masked lanes that have no ``other=`` with NaN or a large integer.
        shuffle: run programs in an order drawn from ``seed``.
    """

    races: bool = True
    poison: bool = True
    shuffle: bool = True
    seed: int = 0


class State:
    """The current settings and the recorded launches."""

    installed = False
    settings = Settings()
    record: list[str] | None = None
    order: list[int] | None = None
    patched: set[frozenset[int]] | None = None


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """Every tensor among launch arguments; a tensor descriptor counts as its base."""
    for value in values:
        base = getattr(value, "base", value)
        if isinstance(base, torch.Tensor):
            yield base
        elif isinstance(value, tuple):
            yield from tensors_in(value)


def checked_call(upstream: Callable) -> Callable:
    def call(self, *args, **kwargs):
        if State.record is not None:
            State.record.append(self.fn.__name__)
        Memory.shadow = Shadow(tensors_in([*args, *kwargs.values()]), State.settings.races)
        Memory.poison = State.settings.poison
        State.order, State.patched = None, set()
        try:
            return upstream(self, *args, **kwargs)
        finally:
            Memory.shadow = State.patched = None

    return call


def shuffled_index(upstream: Callable) -> Callable:
    def set_grid_idx(self, x, y, z):
        nx, ny, nz = self.grid_dim
        index = (x * ny + y) * nz + z
        if State.settings.shuffle:
            if State.order is None:
                State.order = random.Random(State.settings.seed).sample(range(nx * ny * nz), nx * ny * nz)
            index = State.order[index]
        if Memory.shadow is not None:
            Memory.shadow.program = index
        upstream(self, index // (ny * nz), index // nz % ny, index % nz)

    return set_grid_idx


def patched_once(upstream: Callable) -> Callable:
    """Patch the language once per launch. Upstream patches at each call of a device function, which is slow."""

    def call(self, *args, **kwargs):
        modules = frozenset(id(m) for m in self.fn.__globals__.values() if inspect.ismodule(m) and m in (tl, tl.core))
        if State.patched is not None and modules in State.patched:
            return self.rewrite()(*args, **kwargs)
        result = upstream(self, *args, **kwargs)
        if State.patched is not None:
            State.patched.add(modules)
        return result

    return call


def with_index(upstream: Callable) -> Callable:
    """Let a one-item tensor bound a loop. Numpy 2.4 no longer converts its array to a number (triton 3.6)."""

    def patch(tensor, scope):
        upstream(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patch


def install() -> None:
    """Check every kernel launch from now on. ``TRITON_INTERPRET=1`` must be set before triton is imported."""
    if State.installed:
        return
    State.installed = True
    # overflow checks double the time, and only debug builds assert them
    interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
    interpreter._patch_lang_tensor = with_index(interpreter._patch_lang_tensor)
    numerics.install()
    memory.install()
    GridExecutor.__call__ = checked_call(GridExecutor.__call__)
    InterpreterBuilder.set_grid_idx = shuffled_index(InterpreterBuilder.set_grid_idx)
    InterpretedFunction.__call__ = patched_once(InterpretedFunction.__call__)


@contextmanager
def settings(**changes: Any) -> Iterator[Settings]:
    """Change `Settings` inside a ``with``."""
    before = State.settings
    State.settings = replace(before, **changes)
    try:
        yield State.settings
    finally:
        State.settings = before


@contextmanager
def launches() -> Iterator[list[str]]:
    """The names of the kernels launched inside the ``with``, in order."""
    before, State.record = State.record, []
    try:
        yield State.record
    finally:
        State.record = before
