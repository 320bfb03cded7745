"""Torch's convolutions over deferred activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fastinpaint.nn.deferred import BARE, Deferred, defer, parts_of
from fastinpaint.nn.deferred_tensor import DeferredTensor, deferred_of
from fastinpaint.nn.layer import Map, _Layer
from fastinpaint.nn.observed import is_ordinary, unobserved
from fastinpaint.nn.padded import Padded
from fastinpaint.nn.pending_conv import PendingConv, waiting
from fastinpaint.nn.plans import Plan, Plans, is_light
from fastinpaint.nn.raw import Part, Raw, part_of
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.conv_block import checks
from fastinpaint.ops.conv_block.torch_library import Call
from fastinpaint.ops.conv_block.zero_padding import absorbed
from fastinpaint.ops.dispatch.fast_path import ORDINARY, autocasts
from fastinpaint.ops.types import Geometry

PATCHED = "_conv_forward"  # as an attribute of a layer: what it computes in place of torch's method


class _Conv(_Layer, _ConvNd):
    """A convolution that does not run until it is known whether batch statistics of its result are needed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The short way of an unobserved call. Every other call takes `forward`."""
        if len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        (input,) = args
        plan = self.plan_for(input)
        if plan is None:
            return super().__call__(input)
        torchs = plan.of_vectors and type(input) is Tensor
        if plan.light and self._fastinpaint_accelerated and (torchs or not torch.is_grad_enabled()):
            return self._by_torch(input)
        parts = (Part(Raw(input)),) if type(input) is Tensor else input.parts()
        options, own = self._fastinpaint, self._parameters
        for raw in waiting(parts):  # run here, to keep the call stack short
            if raw.x is None:  # else it was read twice, or one of the others read it
                apply, arguments = raw.prepare()
                raw.finish(arguments, apply(*arguments))
        weight: Any = own["weight"]
        pending = PendingConv(parts, weight, own.get("bias"), plan.geometry, options, plan.shape, plan.calls)
        return deferred_of(part_of((pending, *BARE)), options)

    def plan_for(self, input: Any) -> Plan | None:
        """What was worked out for such an input of an unobserved call; None where `forward` must run.

        input: a tensor, a deferred activation, or the `Part` that one of them would hold.
        """
        own = self.__dict__
        parameters = own["_parameters"]
        # a scripted layer has no such attribute; a parametrization computes the weight
        weight = parameters.get("weight") if type(parameters) is dict else None
        if weight is None or "bias" not in parameters or PATCHED in own:
            return None
        if type(weight) not in ORDINARY and not is_ordinary(weight):
            return None
        kind = type(input)
        if kind is Part:
            first = input.raw
            shape = first.shape
        elif kind is DeferredTensor:
            parts: Any = input._parts
            first = parts[0].raw
            shape = first.shape if len(parts) == 1 else input.shape
        elif kind is Tensor and not self._fastinpaint_follows:
            first, shape = input, input.shape
        else:
            return None
        dtype = weight.dtype
        alike = first.dtype == dtype and first.device == weight.device and dtype in DTYPES
        if not alike and not _same_kind(first, weight):
            return None
        bias, plans = parameters["bias"], own.get("_fastinpaint_plans")
        plan = None if plans is None else plans.get(shape)
        question = (
            weight.shape, None if bias is None else bias.shape, self.stride, self.padding, self.dilation, self.groups,
            self.padding_mode,
        )  # fmt: skip
        if plan is None or plan.question != question:
            plan = self._plan(shape, weight, bias, question)
        return plan

    def _plan(self, shape: torch.Size, weight: Tensor, bias: Tensor | None, question: tuple[Any, ...]) -> Plan | None:
        """The plan for inputs of this shape; None where only torch's own layer can give the result."""
        if self.padding_mode != "zeros" or len(shape) != weight.dim():
            return None
        geometry = geometry_of(self)
        if geometry is None or min(geometry.output_padding) < 0:
            return None
        result = torch.Size(checks.check_weight(shape, weight, bias, geometry))
        light = is_light(result, weight.device, self._fastinpaint.backend)
        of_vectors = bias is not None and shape[2:].numel() == result[2:].numel() == 1
        plan = Plan(question, geometry, result, light, of_vectors)
        return self.__dict__.setdefault("_fastinpaint_plans", Plans()).keep(shape, plan)

    def _fused(self, input: Map, output_size: list[int] | None = None) -> Any:
        # each is read once: a parametrization computes it
        shape, weight, bias, options = input.shape, self.weight, self.bias, self._fastinpaint
        if PATCHED in vars(self):
            return NotImplemented
        if self.padding_mode != "zeros" or len(shape) != weight.dim() or not _same_kind(input, weight):
            return NotImplemented
        geometry = geometry_of(self, input, output_size)
        if geometry is None or min(geometry.output_padding) < 0:
            return NotImplemented  # torch's layer raises the error
        result = torch.Size(checks.check_weight(shape, weight, bias, geometry))
        parts, geometry = _without_zeros(input, geometry)
        calls = None if torch.compiler.is_compiling() else self._calls(shape, weight, bias, geometry, result)
        return defer(Deferred, [Part(PendingConv(parts, weight, bias, geometry, options, result, calls))], options)

    def _calls(
        self, shape: torch.Size, weight: Tensor, bias: Tensor | None, geometry: Geometry, result: torch.Size
    ) -> dict[tuple[Any, ...], Call]:
        """The calls made so far for inputs that `plan_for` does not know, as one with zeros around it."""
        plans = self.__dict__.setdefault("_fastinpaint_plans", Plans())
        key = shape, weight.shape, None if bias is None else bias.shape, geometry
        plan = plans.get(key)
        return (plans.keep(key, Plan(key, geometry, result, light=False)) if plan is None else plan).calls


def geometry_of(conv: _ConvNd, input: Map | None = None, output_size: list[int] | None = None) -> Geometry | None:
    """A convolution's geometry; None where its two ends are padded differently.

    With an output_size the input's sizes are needed too.
    """
    padding: Sequence[int] = conv.padding  # type: ignore[assignment]
    if isinstance(padding, str):  # the numbers that torch stored are those of the dilation at that time
        whole = [d * (k - 1) * (padding == "same") for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(size % 2 for size in whole):
            return None
        padding = tuple([size // 2 for size in whole])
    axes = len(conv.kernel_size)
    output_padding: Sequence[int] = (0,) * axes
    if isinstance(conv, _ConvTransposeNd):
        stride, kernel, dilation = list(conv.stride), list(conv.kernel_size), list(conv.dilation)
        output_padding = conv._output_padding(input, output_size, stride, list(padding), kernel, axes, dilation)  # type: ignore[arg-type]
    return Geometry(
        tuple(conv.stride), tuple(padding), tuple(conv.dilation), tuple(output_padding), conv.transposed, conv.groups
    )


def _without_zeros(input: Map, geometry: Geometry) -> tuple[tuple[Part, ...], Geometry]:
    """What the convolution loads, and its geometry, which includes zeros around the input if possible."""
    if isinstance(input, Padded) and (apart := input.apart()) is not None:
        parts, around = apart
        found = absorbed(geometry, around)
        if not isinstance(found, str):
            return parts, found
    return parts_of(input), geometry


def _same_kind(input: Map | Raw, weight: Tensor) -> bool:
    """Whether input and weight are on one device and have, or get from autocast, one dtype that the op takes."""
    if not is_ordinary(weight) or input.device != weight.device or weight.dtype not in DTYPES:
        return False
    if autocasts(weight.device) and torch.float64 not in (weight.dtype, input.dtype):
        return input.dtype in DTYPES
    return input.dtype == weight.dtype


class Conv2d(_Conv, nn.Conv2d):
    """``torch.nn.Conv2d`` over deferred activations."""


class Conv3d(_Conv, nn.Conv3d):
    """``torch.nn.Conv3d`` over deferred activations."""


class ConvTranspose2d(_Conv, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` over deferred activations."""


class ConvTranspose3d(_Conv, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` over deferred activations."""
