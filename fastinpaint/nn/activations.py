"""Torch's activations and dropout over deferred activations: as layers, and as functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastinpaint.nn import gelu as gelu_of
from fastinpaint.nn.deferred import HANDLERS, Deferred
from fastinpaint.nn.deferred_tensor import DeferredTensor, deferred_of
from fastinpaint.nn.gelu import Gelu
from fastinpaint.nn.layers import Map, _Layer
from fastinpaint.nn.linear import can_be_noted, noted
from fastinpaint.nn.observed import hooked, is_ordinary, unobserved
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.dispatch.fast_path import applied, autocasts
from fastinpaint.ops.norm_act import Act, reference

KEEPS_RESULT = ("sigmoid", "tanh")  # torch's nodes of these keep their result, not their input
SOFTPLUS_THRESHOLD = 20.0  # the only value that the kernels support: torch's default


def activate(input: Map, act: Act | None, inplace: bool = False, slope: Tensor | None = None) -> Any:
    """act of a deferred activation, deferred; NotImplemented where only torch can compute it."""
    if act is None or not isinstance(input, Deferred):
        return NotImplemented
    if inplace and input._plain is not None:
        input.materialize_()  # somebody holds the plain tensor, so torch must change that one
        return NotImplemented
    found = input.activated(act, slope)
    if found is None:
        if inplace:
            input.materialize_()
        return NotImplemented
    return input._in_place(found, _never) if inplace else found


def _never(tensor: Tensor) -> None:
    raise AssertionError("a plain tensor is changed by torch")


class _Activation(_Layer):
    """An activation that waits until something reads its result."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The short way of an unobserved call."""
        if len(args) == 1 and not kwargs and type(args[0]) is DeferredTensor and unobserved(self):
            (input,) = args
            act, inplace = self._act(), getattr(self, "inplace", False)
            held = inplace and input._plain is not None  # by somebody: torch must change that one
            part = None if act is None or held else input.followed_by(act)
            if part is not None:
                found = deferred_of(part, input._options)
                return input._in_place(found, _never) if inplace else found
        return super().__call__(*args, **kwargs)

    def _act(self) -> Act | None:
        """The activation it computes; None if the kernels do not have it."""
        raise NotImplementedError

    def _fused(self, input: Map) -> Any:
        act, inplace = self._act(), getattr(self, "inplace", False)
        if isinstance(input, Deferred) or act is None or act.kind in KEEPS_RESULT or inplace:
            return activate(input, act, inplace)
        if hooked(self):
            return NotImplemented
        differentiable = can_be_noted(input)
        own = gelu_of.can_run(input, act, self._fastinpaint.backend, differentiable)
        if own and differentiable:
            return noted(applied(Gelu)(act, input), partial(_again, act, True), input)
        if own and not (torch.is_grad_enabled() and input.requires_grad):
            return gelu_of.run(act, input)
        return noted(self._by_torch(input), partial(_again, act, False), input) if differentiable else NotImplemented


def _again(act: Act, own: bool, operands: list[Tensor | None]) -> Tensor:
    """act of a plain map. own: by the library's kernels, as forward computed it."""
    (z,) = operands
    assert z is not None
    return gelu_of.run(act, z) if own and not torch.is_grad_enabled() else reference.act_fwd(act, z)


class ReLU6(_Activation, nn.ReLU6):
    """``torch.nn.ReLU6`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("relu6")


class LeakyReLU(_Activation, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("leaky_relu", float(self.negative_slope))


class ELU(_Activation, nn.ELU):
    """``torch.nn.ELU`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("elu", float(self.alpha))


class SiLU(_Activation, nn.SiLU):
    """``torch.nn.SiLU`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("silu")


class Hardswish(_Activation, nn.Hardswish):
    """``torch.nn.Hardswish`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("hardswish")


class Hardsigmoid(_Activation, nn.Hardsigmoid):
    """``torch.nn.Hardsigmoid`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("hardsigmoid")


class Sigmoid(_Activation, nn.Sigmoid):
    """``torch.nn.Sigmoid`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("sigmoid")


class Tanh(_Activation, nn.Tanh):
    """``torch.nn.Tanh`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("tanh")


class GELU(_Activation, nn.GELU):
    """``torch.nn.GELU`` over deferred activations."""

    def _act(self) -> Act | None:
        return gelu(self.approximate)


class Softplus(_Activation, nn.Softplus):
    """``torch.nn.Softplus`` over deferred activations."""

    def _act(self) -> Act | None:
        return softplus(self.beta, self.threshold)


class Mish(_Activation, nn.Mish):
    """``torch.nn.Mish`` over deferred activations."""

    def _act(self) -> Act | None:
        return Act("mish")


class PReLU(_Layer, nn.PReLU):
    """``torch.nn.PReLU`` over deferred activations."""

    def _fused(self, input: Map) -> Any:
        return prelu(input, self.weight)


def prelu(input: Any, weight: Any) -> Any:
    """PReLU of a deferred activation by a slope ``[1]`` or ``[C]``, deferred; NotImplemented where torch has to."""
    if not isinstance(input, Deferred) or not isinstance(weight, Tensor) or not is_ordinary(weight):
        return NotImplemented
    if weight.dim() > 1 or weight.numel() not in (1, input.shape[1]) or weight.device != input.device:
        return NotImplemented
    # under autocast torch casts both; the slope needs no rounding here
    if autocasts(input.device):
        fits = input.dtype == torch.get_autocast_dtype(input.device.type) and weight.dtype in DTYPES
    else:
        fits = input.dtype == weight.dtype
    slope = weight if weight.dim() else weight.view(1)
    return activate(input, Act("prelu"), slope=slope) if fits else NotImplemented


def gelu(approximate: str = "none") -> Act | None:
    return {"none": Act("gelu"), "tanh": Act("gelu_tanh")}.get(approximate)


def softplus(beta: float = 1.0, threshold: float = SOFTPLUS_THRESHOLD) -> Act | None:
    return Act("softplus", float(beta)) if threshold == SOFTPLUS_THRESHOLD and beta > 0 else None


class _Dropout(_Layer):
    """Dropout that returns its input if it drops nothing."""

    p: float

    def _fused(self, input: Map) -> Any:
        return input if isinstance(input, Deferred) and (self.p == 0 or not self.training) else NotImplemented


class Dropout(_Dropout, nn.Dropout):
    """``torch.nn.Dropout`` over deferred activations."""


class Dropout2d(_Dropout, nn.Dropout2d):
    """``torch.nn.Dropout2d`` over deferred activations."""


class Dropout3d(_Dropout, nn.Dropout3d):
    """``torch.nn.Dropout3d`` over deferred activations."""


def _handler(act_of: Callable[..., Act | None]) -> Callable[..., Any]:
    """A torch function of an input, the activation's parameters and perhaps ``inplace``."""

    def handle(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        return activate(input, act_of(*args, **kwargs), inplace)

    return handle


def _simple(kind: str) -> Callable[..., Any]:
    """A torch function of an input and perhaps ``inplace``."""

    def handle(input: Any, inplace: bool = False) -> Any:
        return activate(input, Act(kind), inplace)

    return handle


def _leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return activate(input, Act("leaky_relu", float(negative_slope)), inplace)


def _elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return activate(input, Act("elu", float(alpha)), inplace)


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return activate(input, Act("relu6") if (min_val, max_val) == (0, 6) else None, inplace)


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return input if p == 0 or not training else NotImplemented


HANDLERS.update(
    {
        F.relu6: _simple("relu6"),
        F.leaky_relu: _leaky_relu,
        F.elu: _elu,
        F.silu: _simple("silu"),
        F.hardswish: _simple("hardswish"),
        F.hardsigmoid: _simple("hardsigmoid"),
        torch.sigmoid: _simple("sigmoid"),
        torch.tanh: _simple("tanh"),
        F.gelu: _handler(gelu),
        F.softplus: _handler(softplus),
        F.prelu: prelu,
        Tensor.prelu: prelu,
        F.mish: _simple("mish"),
        F.hardtanh: _hardtanh,
        F.dropout: _dropout,
        F.dropout2d: _dropout,
        F.dropout3d: _dropout,
    }
)
