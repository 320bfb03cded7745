"""Deferred activations that are a ``torch.Tensor`` to ``isinstance``, to functions in C++ and to scripts.

torch asks ``__torch_function__`` of the class about every function and method that is called from Python, of scripted
functions too. What goes past it, in C++, meets ``__torch_dispatch__`` when it reaches an operator: there is no storage
that it could read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import enable_reentrant_dispatch

from fastinpaint.nn.deferred import AS_TENSORS, OPTIONS, Deferred, joined_shape, plain
from fastinpaint.nn.dropped import GradientDroppedError
from fastinpaint.nn.padded import Padded, padded_shape
from fastinpaint.nn.raw import Mode, Options, Part
from fastinpaint.nn.region import top_hooks
from fastinpaint.ops.conv_block.zero_padding import Zeros

_own = object.__setattr__
_make = Tensor._make_wrapper_subclass
_Tensor: Any = Tensor  # whose attributes may be written, to a checker of types


class DeferredTensor(Deferred, _Tensor):
    """A `Deferred` that is a Tensor without storage."""

    def __new__(cls, parts: Sequence[Part], options: Options | None = None) -> DeferredTensor:
        raw = parts[0].raw
        shape = joined_shape(parts) if parts[1:] else raw.shape
        return _make(cls, shape, dtype=raw.dtype, device=raw.device)

    def __init__(self, parts: Sequence[Part], options: Options = OPTIONS) -> None:
        # as `Deferred.__init__`, written out: it is called several times a layer
        hooks = top_hooks(True)
        _own(self, "_saving", hooks[0] if hooks else None)
        _own(self, "_parts", tuple(parts))
        _own(self, "_options", options)
        _own(self, "_mode", Mode.now())
        if self._mode.inference and any(part.untracked for part in parts):
            self.materialize_()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # torch looks for many attributes of its own
        return super().__getattr__(name)

    @property
    def data(self) -> Tensor:
        """The plain tensor's ``.data``, for good: torch counts no change made through it."""
        return self.materialize_().data

    @data.setter
    def data(self, value: Tensor) -> None:
        self.materialize_().data = value

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Any:
        """Watch the gradient of the plain tensor."""
        return self._watched("register_hook").register_hook(hook)

    def retain_grad(self) -> None:
        """Keep the gradient of the plain tensor."""
        self._watched("retain_grad").retain_grad()

    def _watched(self, name: str) -> Tensor:
        if self._read:
            raise GradientDroppedError(self._options.maker, GradientDroppedError.watched.format(name))
        return self.materialize_()

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
            error = GradientDroppedError(ours[0]._options.maker)  # autograd recorded only the plain tensors
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)  # TorchScript loses the error's sentence
            raise error
        with enable_reentrant_dispatch():  # autograd did not record this call, so the plain tensors go through it
            return _on_plain(func, args, kwargs)


def deferred_of(part: Part, options: Options) -> DeferredTensor:
    """``defer(Deferred, [part], options)`` for unobserved calls, written out: it is called several times a layer."""
    raw = part.raw
    found = _make(DeferredTensor, raw.shape, dtype=raw.dtype, device=raw.device)
    hooks, mode, own = top_hooks(True), Mode.now(), found.__dict__
    own["_saving"] = hooks[0] if hooks else None
    own["_parts"], own["_options"], own["_mode"] = (part,), options, mode
    if mode.inference and part.untracked:
        found.materialize_()
    return found


def _on_plain(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operator's result, of plain tensors; one that changes its first argument returns that."""
    if args and isinstance(args[0], Deferred) and func._schema.is_mutable:
        args[0].materialize_()
        func(*plain(tuple(args)), **plain(kwargs))
        return args[0]
    return func(*plain(tuple(args)), **plain(kwargs))


class PaddedTensor(Padded, DeferredTensor):
    """A `Padded` that is a Tensor without storage."""

    def __new__(cls, parts: Sequence[Part], zeros: Zeros, options: Options | None = None) -> PaddedTensor:
        raw = parts[0].raw
        return _make(cls, padded_shape(joined_shape(parts), zeros), dtype=raw.dtype, device=raw.device)


AS_TENSORS.update({Deferred: DeferredTensor, Padded: PaddedTensor})
