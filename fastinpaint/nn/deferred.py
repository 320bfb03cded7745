"""`Deferred`: an activation that is not computed until something asks for it as a plain tensor.

Convolutions of the library read it as it is: batch norm, ReLU, addition and concatenation happen while they load their
input. ``torch.cat`` over the channels, ReLU and the addition of a map of the same shape stay deferred, and zeros around
it too (`fastinpaint.nn.padded`). Anything else, a function, a method, an operator or an attribute, gets the plain
tensor, which is computed once.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.nn.activated import Activated, followed, made, pending, slopes_of
from fastinpaint.nn.dropped import GradientDroppedError, forwards, note_reader
from fastinpaint.nn.observed import changes_input, is_ordinary
from fastinpaint.nn.pending_conv import PendingConv, Written, activate, waiting
from fastinpaint.nn.raw import Mode, Options, Part, Raw, version
from fastinpaint.nn.region import saving, top_hooks
from fastinpaint.ops.norm_act import NONE, RELU, Act

_own = object.__setattr__  # bypasses `Deferred.__setattr__`, as it is called several times a layer
WATCHERS = ("register_hook", "retain_grad")  # methods that watch the gradient of their own tensor
OPTIONS = Options()
UNSEEN = object()  # by a compiler
BARE = tuple(Part._field_defaults.values())  # of a `Part` that is its raw map, unchanged


def _itself(value: Any) -> Any:
    return value


class Deferred:
    """Several `Part`, concatenated over the channels, that behave as one tensor.

    Made by `defer`: a ``torch.Tensor`` too, to ``isinstance`` and to functions in C++, but under torch's compiler.
    """

    _parts: tuple[Part, ...]
    _options: Options
    _mode: Mode
    _saving: object = UNSEEN  # the packing of saved tensors in force when it was made, such as a checkpoint's
    _plain: Tensor | None = None
    _version = 0
    _whole = False  # whether everything reads the plain tensor, because it was made plain in time or is a raw map
    _read = False  # whether something read the parts instead of the plain tensor
    # numpy's scalars and arrays leave an operator with this to its reflection, as they do for a tensor.
    __array_priority__ = Tensor.__array_priority__

    def __init__(self, parts: Sequence[Part], options: Options = OPTIONS) -> None:
        _own(self, "_parts", tuple(parts))
        _own(self, "_options", options)
        _own(self, "_mode", Mode.now())
        if self._mode.inference and any(part.untracked for part in parts):
            self.materialize_()

    @property
    def shape(self) -> torch.Size:
        return joined_shape(self._parts)

    @property
    def dtype(self) -> torch.dtype:
        return self._parts[0].raw.dtype

    @property
    def device(self) -> torch.device:
        return self._parts[0].raw.device

    @property
    def ndim(self) -> int:
        return self.dim()

    @property
    def requires_grad(self) -> bool:
        return self._mode.grad and any(part.requires_grad for part in self._parts)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self._parts[0].raw.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.shape[0]

    def tensor(self) -> Tensor:
        """The plain tensor, computed on the first call, in the mode that the Deferred was made in."""
        plain = self._base()
        if self._read and not self._whole and plain.requires_grad and torch.is_grad_enabled():
            note_reader(self._options.maker)
            # its gradient would lack the part that flows through the parts; an unread view has none
            return plain.view_as(plain)
        return plain

    def last_steps(self) -> list[PendingConv | Activated | Written]:
        """The steps that make the plain tensor, in order; none if only `tensor` can make it.

        The caller runs them by `prepare` and `finish`, and then calls `become` with the last one. `tensor` does the
        same with a deeper call stack.
        """
        parts, mode, options = self._parts, self._mode, self._options
        if self._plain is not None or mode is not Mode.now() or mode.inference or self._superseded():
            return []
        self._refuse_function()
        steps: list[Any] = waiting(parts)
        part = parts[0]
        raw = made(part, options) if len(parts) == 1 and part.norm is not None else None
        if raw is not None and raw.x is None:
            steps.append(raw)
        elif raw is None and not (len(parts) == 1 and part.bare):
            steps.append(Written(parts, options))
        return steps

    def become(self, step: PendingConv | Activated | Written) -> None:
        """Take the map of the last of `last_steps`, which has run, as the plain tensor."""
        assert step.x is not None
        plain = step.x if type(step) is Written else activate((Part(step),), self._options)  # type: ignore[arg-type]
        self._plain = plain.contiguous() if self._options.contiguous else plain
        self._version = version(self._plain)
        self._whole = self._plain is self._parts[0].raw.x

    def _base(self) -> Tensor:
        """The plain tensor that every other one is a view of."""
        self._refuse_function()  # also where it is plain already: the Function was given this object
        if self._plain is None:
            with self._as_when_made():
                plain = self._computed()
                self._plain = plain.contiguous() if self._options.contiguous else plain
            self._version = version(self._plain)
            self._whole = self._plain is self._parts[0].raw.x
            if self._whole and self._read and self._mode.inference:
                self._plain = self._plain.clone()  # torch would not count a change
        return self._plain

    def _as_when_made(self) -> AbstractContextManager[object]:
        """The gradient mode of when it was made, outside any checkpoint begun since, which would run it twice."""
        if self._saving is UNSEEN or saving() is self._saving:
            return self._mode.again()
        both = ExitStack()
        both.enter_context(torch.autograd.graph.saved_tensors_hooks(_itself, _itself))
        both.enter_context(self._mode.again())
        return both

    def _computed(self) -> Tensor:
        return activate(self._parts, self._options)

    def parts(self) -> tuple[Part, ...]:
        """What a convolution loads."""
        self._reads()
        return self._current()

    def _reads(self) -> None:
        """Note that something reads the parts."""
        self._refuse_function()
        _own(self, "_read", True)

    def _current(self) -> tuple[Part, ...]:
        return (Part(Raw(self._base())),) if self._superseded() else self._parts

    def _superseded(self) -> bool:
        """Whether readers get the plain tensor in place of the parts."""
        grad = torch.is_grad_enabled()
        if grad and not self._mode.grad:
            return True
        if self._saving is not UNSEEN:  # written out: it is asked several times a layer
            hooks = top_hooks(True)
            if (hooks[0] if hooks else None) is not self._saving:
                return True
        if self._plain is None:
            return False
        return not grad or version(self._plain) != self._version  # without gradients nothing is kept: use what exists

    def waiting_conv(self) -> PendingConv | None:
        """The convolution whose result it is, if that has not run and may run now; else None."""
        part, mode = self._parts[0], self._mode
        raw = part[0]
        if len(self._parts) != 1 or type(raw) is not PendingConv or raw.x is not None or self._superseded():
            return None
        if raw.mode is not mode or mode is not Mode.now() or part[1:] != BARE:
            return None
        self._reads()
        return raw

    def _refuse_function(self) -> None:
        """An autograd.Function knows only tensors among its arguments: it would drop this one's gradient silently."""
        if not self._mode.grad or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        if not any(part.requires_grad for part in self._parts):
            return
        codes = forwards(torch.autograd.Function)
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code in codes:
                raise GradientDroppedError(self._options.maker)
            frame = frame.f_back  # type: ignore[assignment]

    def materialize_(self) -> Tensor:
        """Become the plain tensor for good: changes in place of the one are changes of the other."""
        plain = self._base()
        self._whole = self._whole or not self._read
        self._parts = (Part(Raw(plain)),)
        return plain

    def activated(self, act: Act, slope: Tensor | None = None) -> Deferred | None:
        """act of it; None where only torch can compute it. slope: of prelu, ``[C]`` or ``[1]``."""
        parts = self._current()
        each = zip(parts, slopes_of(parts, slope), strict=True)
        found = [followed(part, act, own, self._options) for part, own in each]
        if None in found:
            return None
        self._reads()
        return defer(Deferred, found, self._options)

    def followed_by(self, act: Act) -> Part | None:
        """act of it as one part; None if `activated` has more to do."""
        if len(self._parts) > 1 or self._superseded():
            return None
        part = followed(self._parts[0], act, None, self._options)
        if part is not None:
            self._reads()
        return part

    def relu(self) -> Deferred | Tensor:
        found = self.activated(RELU)
        return F.relu(self.tensor()) if found is None else found

    def relu_(self) -> Deferred:
        return self._in_place(self.relu(), F.relu_)

    def plus(self, other: Any) -> Deferred | Tensor:
        """The sum; deferred where the other is a map of the same shape."""
        if self._addable(other):
            (part,) = self.parts()
            addend = _addend(other)
            total = None if part.relu else pending(part, NONE, addend, self._options)
            return defer(Deferred, [part._replace(addend=addend) if total is None else Part(total)], self._options)
        if isinstance(other, Deferred) and other._addable(self):
            return other.plus(self)
        return self.tensor() + plain(other)

    __add__ = __radd__ = plus

    def __iadd__(self, other: Any) -> Deferred:  # type: ignore[misc]
        return self._in_place(self.plus(other), lambda tensor: tensor.add_(plain(other)))

    def _addable(self, other: Any) -> bool:
        """Whether ``self + other`` can be one part with an addend. A bare map is better added to at once."""
        parts = self._current()
        if len(parts) != 1 or parts[0].addend is not None or (parts[0].bare and not _open(parts[0].raw)):
            return False
        if not isinstance(other, Deferred) and (not isinstance(other, Tensor) or not is_ordinary(other)):
            return False
        return other.shape == self.shape and other.dtype == self.dtype and other.device == self.device

    def _in_place(self, result: Deferred | Tensor, change: Callable[[Tensor], object]) -> Deferred:
        """Become a result; if somebody holds the plain tensor already, change that one in place."""
        if self._plain is not None:
            change(self.materialize_())
        elif isinstance(result, Deferred):
            self._parts, self._mode, self._read = result._parts, result._mode, False
        else:
            self._parts, self._mode, self._read = (Part(Raw(result)),), Mode.now(), False
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in HANDLERS:
            result = HANDLERS[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
        if args and isinstance(args[0], Deferred) and changes_input(func, kwargs):
            args[0].materialize_()
        return func(*plain(tuple(args)), **plain(kwargs))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in WATCHERS and self._read:
            raise GradientDroppedError(self._options.maker, GradientDroppedError.watched.format(name))
        for_good = name.endswith("_") or name == "data" or name in WATCHERS  # .data changes with no version counted
        return getattr(self.materialize_() if for_good else self.tensor(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") and not name.startswith("__"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.materialize_(), name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.materialize_()[plain(index)] = plain(value)

    def __repr__(self) -> str:
        return f"Deferred(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.tensor().__reduce_ex__(protocol)


# By class: the one that is a torch.Tensor too, see `fastinpaint.nn.deferred_tensor`.
AS_TENSORS: dict[type[Deferred], type[Deferred]] = {}


def defer(kind: type[Deferred], *arguments: Any) -> Any:
    """A deferred activation of a class; a ``torch.Tensor`` too, but under torch's compiler, which makes none."""
    if torch.compiler.is_compiling():
        return kind(*arguments)
    return AS_TENSORS.get(kind, kind)(*arguments)


def joined_shape(parts: Sequence[Part]) -> torch.Size:
    """The shape of several parts, concatenated over the channels."""
    first = parts[0].raw.shape
    if len(parts) == 1:
        return first
    return torch.Size((first[0], sum(part.raw.shape[1] for part in parts), *first[2:]))


def _open(raw: Raw) -> bool:
    """Whether it is a map that can still take an activation or an addend."""
    return isinstance(raw, Activated) and raw.open and raw.addend is None


def _addend(value: Tensor | Deferred) -> Raw:
    """A value as an addend: a bare convolution's result keeps its recipe, as does a normalised map."""
    parts = parts_of(value)
    if len(parts) == 1 and isinstance(value, Deferred) and (raw := made(parts[0], value._options)) is not None:
        return raw
    if len(parts) != 1 or not parts[0].bare:
        return Raw(plain(value))
    parts[0].raw.added = True
    return parts[0].raw


HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {}  # by function of torch: see `fastinpaint.nn.functions`


def parts_of(value: Tensor | Deferred) -> tuple[Part, ...]:
    """A tensor or a Deferred as what a convolution loads."""
    return value.parts() if isinstance(value, Deferred) else (Part(Raw(value)),)


def plain(value: Any, for_good: bool = False) -> Any:
    """The value with every Deferred in it, through tuples, lists, dicts and dataclasses, as a plain tensor.

    for_good: later readers of the same Deferred get that tensor too, so its whole gradient can be watched.
    """
    if isinstance(value, Deferred):
        if for_good:
            value.materialize_()
        return value.tensor()
    if isinstance(value, Tensor) or value is None or not holds_deferred(value):
        return value
    if isinstance(value, tuple | list):
        items = [plain(item, for_good) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) is dict:
        return {key: plain(item, for_good) for key, item in value.items()}
    twin = copy.copy(value)  # of the same class; its constructor may do anything, so it is not called
    if isinstance(value, dict):
        for key, item in value.items():
            twin[key] = plain(item, for_good)
    else:
        for field in fields(value):
            object.__setattr__(twin, field.name, plain(getattr(value, field.name), for_good))
    return twin


def holds_deferred(value: Any) -> bool:
    """Whether a Deferred is anywhere in it."""
    if isinstance(value, dict):
        value = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in fields(value)]
    return any(map(holds_deferred, value)) if isinstance(value, tuple | list) else isinstance(value, Deferred)
