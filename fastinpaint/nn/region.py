"""Whether an accelerated model is running in this thread: outside one, its layers give plain tensors."""

from __future__ import annotations

import threading

import torch


class _Depth(threading.local):
    depth = 0


_open = _Depth()


def enter() -> None:
    """A module of an accelerated model begins."""
    if not torch.compiler.is_compiling():
        _open.depth += 1


def leave() -> None:
    """It ends."""
    if not torch.compiler.is_compiling():
        _open.depth -= 1


def inside() -> bool:
    """Whether one is running. A compiler sees the whole model; in backward, checkpointing runs a part of it again."""
    return torch.compiler.is_compiling() or _open.depth > 0 or torch._C._current_graph_task_id() != -1
