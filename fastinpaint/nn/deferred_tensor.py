"""Deferred activations that are ``torch.Tensor`` to everybody: to ``isinstance``, to functions in C++, to scripts.

torch asks ``__torch_function__`` of the class about every function and method that is called from Python, of scripted
functions too. What goes past it, in C++, meets ``__torch_dispatch__`` when it reaches an operator: there is no storage
that it could read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch

from fastinpaint.nn.deferred import AS_TENSORS, Deferred, joined_shape, plain
from fastinpaint.nn.dropped import GradientDroppedError
from fastinpaint.nn.padded import Padded, padded_shape
from fastinpaint.nn.raw import Options, Part
from fastinpaint.ops.conv_block.zero_padding import Zeros


class DeferredTensor(Deferred, Tensor):
    """A `Deferred` that is a Tensor without storage."""

    def __new__(cls, parts: Sequence[Part], options: Options | None = None) -> DeferredTensor:
        return _without_storage(cls, joined_shape(parts), parts[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # torch asks for many of its own
        return super().__getattr__(name)

    @property
    def data(self) -> Tensor:
        """The plain tensor's, for good: what is done to it counts as no change."""
        return self.settle().data

    @data.setter
    def data(self, value: Tensor) -> None:
        self.settle().data = value

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Any:
        """Watch the gradient of the plain tensor."""
        return self._watched("register_hook").register_hook(hook)

    def retain_grad(self) -> None:
        """Keep the gradient of the plain tensor."""
        self._watched("retain_grad").retain_grad()

    def _watched(self, name: str) -> Tensor:
        if self._read:
            raise RuntimeError(f"fastinpaint: .{name} must come before other layers read the activation.")
        return self.settle()

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values = [*args, *kwargs.values()]
        ours = [value for value in values if isinstance(value, Deferred) and value.requires_grad]
        if not ours:
            return _on_plain(func, args, kwargs)
        if any(
            isinstance(value, Tensor) and not isinstance(value, Deferred) and value.requires_grad for value in values
        ):
            error = GradientDroppedError(ours[0]._options.maker)  # autograd has recorded the others, and none of ours
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)  # TorchScript loses the error's sentence
            raise error
        with enable_reentrant_dispatch():  # autograd, which has let this call pass, sees the plain tensors
            return _on_plain(func, args, kwargs)


def _on_plain(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operator's result, of plain tensors; one that changes its first argument returns that."""
    if args and isinstance(args[0], Deferred) and func._schema.is_mutable:  # type: ignore[attr-defined]
        args[0].settle()
        func(*plain(tuple(args)), **plain(kwargs))
        return args[0]
    return func(*plain(tuple(args)), **plain(kwargs))


class PaddedTensor(Padded, DeferredTensor):
    """A `Padded` that is a Tensor without storage."""

    def __new__(cls, parts: Sequence[Part], zeros: Zeros, options: Options | None = None) -> PaddedTensor:
        return _without_storage(cls, padded_shape(joined_shape(parts), zeros), parts[0])


def _without_storage(kind: type[Any], shape: torch.Size, part: Part) -> Any:
    raw = part.raw
    return Tensor._make_wrapper_subclass(kind, shape, dtype=raw.dtype, device=raw.device)  # type: ignore[attr-defined]


AS_TENSORS.update({Deferred: DeferredTensor, Padded: PaddedTensor})
