"""Functions of torch whose result stays deferred: ReLU, addition, and concatenation over the channels.

And those that would miss a part of a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.nn.deferred import HANDLERS, Deferred, defer
from fastinpaint.nn.dropped import GradientDroppedError
from fastinpaint.nn.observed import is_ordinary
from fastinpaint.nn.raw import Part, Raw
from fastinpaint.nn.region import once


def _relu(input: Deferred, inplace: bool = False) -> Any:
    return input.relu_() if inplace else input.relu()


def _add(input: Any, other: Any, *, alpha: float = 1, out: Tensor | None = None) -> Any:
    if alpha != 1 or out is not None:
        return NotImplemented
    return input.plus(other) if isinstance(input, Deferred) else other.plus(input)


def _cat(tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None) -> Any:
    """Concatenation of maps of one dtype over the channels stays deferred."""
    dim = dim if axis is None else axis
    shape, dtype, device = tensors[0].shape, tensors[0].dtype, tensors[0].device
    axes, samples, space = len(shape), shape[:1], shape[2:]
    if out is not None or axes not in (4, 5) or dim not in (1, 1 - axes):
        return NotImplemented
    if not all(isinstance(t, Deferred) or is_ordinary(t) for t in tensors):
        return NotImplemented
    for t in tensors[1:]:  # each is read once: a deferred activation computes it
        other = t.shape
        if len(other) != axes or t.dtype != dtype or t.device != device:
            return NotImplemented
        if other[:1] != samples or other[2:] != space:
            return NotImplemented
    options = next(t._options for t in tensors if isinstance(t, Deferred))
    return defer(Deferred, [part for t in tensors for part in _parts_of(t)], options)


def _parts_of(value: Tensor | Deferred) -> tuple[Part, ...]:
    """As `parts_of`. A plain tensor that is concatenated again keeps its statistics."""
    return value.parts() if isinstance(value, Deferred) else (Part(once(value, Raw)),)


def _view_as(input: Any, other: Any) -> Any:
    """What torch calls, without gradients, where an autograd.Function returns its input: a view gets its gradient.

    The Function got no real tensor, so it would be left out of the graph, as a reversal of gradients.
    """
    if input is other and input.requires_grad and not torch.is_grad_enabled():
        raise GradientDroppedError(input._options.maker)
    return NotImplemented


def _gradients(tensors: Any, inputs: Any = None, **options: Any) -> Any:
    """torch.autograd's functions: a gradient by a map that other layers have read as it was would be a part of it."""
    for input in inputs if isinstance(inputs, Sequence) else (inputs,):
        if isinstance(input, Deferred) and input._base() is not None and input._read and not input._whole:
            raise GradientDroppedError(input._options.maker, GradientDroppedError.by)
    return NotImplemented


HANDLERS.update(
    {
        torch.autograd.grad: _gradients,
        torch.autograd.backward: _gradients,
        Tensor.backward: _gradients,
        Tensor.view_as: _view_as,
        F.relu: _relu,
        torch.relu: _relu,
        Tensor.relu: _relu,
        torch.relu_: lambda input: input.relu_(),
        Tensor.relu_: lambda input: input.relu_(),
        torch.add: _add,
        Tensor.add: _add,
        Tensor.__add__: _add,
        Tensor.__radd__: _add,
        torch.cat: _cat,
        torch.concat: _cat,
        torch.concatenate: _cat,
    }
)
