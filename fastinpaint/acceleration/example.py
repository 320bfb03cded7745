"""A model call that can be repeated, and the results of it that have gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

VALUES = (bool, int, float, complex, str, bytes, type(None), np.ndarray, np.number)
MOVED = 64  # units of rounding within which arguments are moved: as much as Winograd's transforms err
PLAIN = (*VALUES, torch.dtype, torch.device, torch.Size)


def arguments_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as call arguments: a tuple or list by position, a dict of names by keyword, anything else as one."""
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        return (), dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str):
        return tuple(example), {}
    return (example,), {}


class Example:
    """The arguments of one call.

    Attributes:
        moved: whether fresh copies of floating-point arguments are off by as much as rounding may do.
    """

    moved = False

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = args, dict(kwargs)
        self.leaves: list[Any] = tree_flatten((self.args, self.kwargs))[0]

    def why_not(self) -> str | None:
        """Why the call cannot be repeated, in one sentence, or None."""
        for leaf in self.leaves:
            if isinstance(leaf, Tensor):
                if type(leaf) not in (Tensor, torch.nn.Parameter) or leaf.device.type == "meta":
                    return f"an argument is a {type(leaf).__name__} on {leaf.device}, not a tensor with values."
            elif not isinstance(leaf, PLAIN):
                return f"an argument is a {type(leaf).__name__}, which a second call might find changed."
        return None

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
        """Copies of the arguments outside the caller's graph, and those of them that require gradients."""
        taking: list[Tensor] = []

        def copied(tensor: Tensor) -> Tensor:
            with torch.inference_mode(False):  # as a loader's tensors are; torch counts their changes
                fresh = tensor.detach().clone(memory_format=torch.preserve_format)
            if self.moved and fresh.is_floating_point():
                signs = torch.rand(fresh.shape, generator=torch.Generator().manual_seed(0)).to(fresh) - 0.5
                fresh.mul_(1 + MOVED * torch.finfo(fresh.dtype).eps * signs)
            if tensor.requires_grad:
                taking.append(fresh.requires_grad_())
            return fresh

        args, kwargs = tree_map_only(Tensor, copied, (self.args, self.kwargs))
        return args, kwargs, taking


def float_tensors(value: Any) -> list[Tensor]:
    """Every floating-point tensor in a model's result: in tuples, lists, dicts, dataclasses and other plain objects."""
    found: list[Tensor] = []
    _collect(value, found, set())
    return found


def _collect(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.is_floating_point():
            found.append(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, found, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name), found, seen)
