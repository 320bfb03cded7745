"""Torch's own layers, made to read and hand on deferred activations.

Each class is a torch layer with another ``forward``: same constructor, parameters, buffers and ``state_dict``.
`fastinpaint.accelerate` turns one into the other by changing the module's class. What a layer cannot take (a dtype, a
padding mode, an unbatched input) goes through torch's own forward. A layer with hooks takes and returns plain tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.padding import _ConstantPadNd

from fastinpaint.nn.activated import Normed
from fastinpaint.nn.deferred import Deferred, defer, parts_of, plain
from fastinpaint.nn.observed import hooked, torch_must_run, unobserved
from fastinpaint.nn.padded import Padded, zeros_of
from fastinpaint.nn.pending_conv import PendingConv
from fastinpaint.nn.plans import Plan, Plans, is_light
from fastinpaint.nn.raw import Mode, Options, Part, Raw
from fastinpaint.nn.region import inside
from fastinpaint.nn.sync import all_reduce_statistics
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.batch_norm import autograd as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Running, update
from fastinpaint.ops.conv_block import checks
from fastinpaint.ops.conv_block.zero_padding import absorbed
from fastinpaint.ops.dispatch.fast_path import apply_node, autocasts
from fastinpaint.ops.types import Geometry

Map = Tensor | Deferred
# Those before 2.13 fail on a Deferred in a list, as torch.cat is given: there each layer gives a plain tensor. This one
# fails on a tuple, see `Options.plain_compiled`.
COMPILER_TAKES_DEFERRED = torch.__version__ >= "2.13"  # compared as versions, by torch


class _Layer(nn.Module):
    """What the layers share. `fastinpaint.accelerate` sets these attributes on a module."""

    _fastinpaint = Options()
    _fastinpaint_accelerated = False  # by `accelerate`: outside its model it gives plain tensors
    _fastinpaint_plain = False  # whether it always does
    _fastinpaint_follows = False  # whether it leaves plain tensors to torch

    _fused: Callable[..., Any]  # the layer's result, deferred; NotImplemented where only torch's own layer can give it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if hooked(self):
            args, kwargs = plain(args, True), plain(kwargs, True)
        return super().__call__(*args, **kwargs)

    def _by_torch(self, input: Map) -> Any:
        """What torch's own layer makes of the input, where nobody looks on."""
        result = super().forward(input.tensor() if isinstance(input, Deferred) else input)
        return result.contiguous() if self._fastinpaint.contiguous else result

    def forward(self, input: Map, *args: Any, **kwargs: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        fused = compiling or not torch_must_run(input)
        if self._fastinpaint_follows and not isinstance(input, Deferred):
            fused = False
        result = self._fused(input, *args, **kwargs) if fused else NotImplemented
        if result is NotImplemented:
            result = super().forward(plain(input), *args, **kwargs)
            return result.contiguous() if self._fastinpaint.contiguous and isinstance(result, Tensor) else result
        refused = compiling and (self._fastinpaint.plain_compiled or not COMPILER_TAKES_DEFERRED)
        outside = not compiling and self._fastinpaint_accelerated and not inside()
        return plain(result) if refused or outside or self._fastinpaint_plain or hooked(self) else result


class _Conv(_Layer, _ConvNd):
    """A convolution that waits until it is known whether batch statistics of its result are wanted."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Where nobody looks on, what `forward` would do, by the layer's plan; else `forward` itself."""
        parameters = self.__dict__["_parameters"]
        if type(parameters) is not dict:  # but what stands for it in a scripted layer
            return super().__call__(*args, **kwargs)
        weight = parameters.get("weight")  # none where a parametrization computes it
        if weight is None or len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        (input,) = args
        deferred = isinstance(input, Deferred)
        if not (deferred or type(input) is Tensor) or isinstance(input, Padded) or not _same_kind(input, weight):
            return super().__call__(*args, **kwargs)
        if self._fastinpaint_follows and not deferred:
            return super().__call__(*args, **kwargs)
        bias, shape = parameters.get("bias"), input.shape
        plans = self.__dict__.get("_fastinpaint_plans")
        plan = None if plans is None else plans.get(shape)
        question = (
            weight.shape, None if bias is None else bias.shape, self.stride, self.padding, self.dilation, self.groups,
            self.padding_mode,
        )  # fmt: skip
        if plan is None or plan.question != question:
            plan = self._plan(input, weight, bias, question)
            if plan is None:
                return super().__call__(*args, **kwargs)
        options = self._fastinpaint
        if plan.light and self._fastinpaint_accelerated and not torch.is_grad_enabled():
            return self._by_torch(input)
        parts = input.parts() if deferred else (Part(Raw(input)),)
        for part in parts:
            raw = part.raw
            if raw.x is None and type(raw) is PendingConv and raw.mode == Mode.now():  # here, not layers deep
                found = raw.prepare(False)
                raw.finish(found, apply_node(*found))
        pending = PendingConv(parts, weight, bias, plan.geometry, options, plan.shape, plan.calls)
        return defer(Deferred, (Part(pending),), options)

    def _plan(self, input: Map, weight: Tensor, bias: Tensor | None, question: tuple[Any, ...]) -> Plan | None:
        """The plan for inputs of this shape; None where only torch's own layer can give the result."""
        shape = input.shape
        if self.padding_mode != "zeros" or len(shape) != weight.dim():
            return None
        geometry = geometry_of(self, input)
        if min(geometry.output_padding) < 0:
            return None
        result = torch.Size(checks.check_weight(shape, weight, bias, geometry))
        plan = Plan(question, geometry, result, is_light(result, weight.device, self._fastinpaint.backend))
        return self.__dict__.setdefault("_fastinpaint_plans", Plans()).keep(shape, plan)

    def _fused(self, input: Map, output_size: list[int] | None = None) -> Any:
        # each is read once: a parametrization computes it
        shape, weight, bias, options = input.shape, self.weight, self.bias, self._fastinpaint
        if self.padding_mode != "zeros" or len(shape) != weight.dim() or not _same_kind(input, weight):
            return NotImplemented
        geometry = geometry_of(self, input, output_size)
        if min(geometry.output_padding) < 0:
            return NotImplemented  # which has an error for that
        result = torch.Size(checks.check_weight(shape, weight, bias, geometry))
        parts, geometry = _without_zeros(input, geometry)
        return defer(Deferred, [Part(PendingConv(parts, weight, bias, geometry, options, result))], options)


def geometry_of(conv: _ConvNd, input: Map | None = None, output_size: list[int] | None = None) -> Geometry:
    """A convolution's geometry; input is asked for its sizes where the wanted output_size is given."""
    padding: Sequence[int] = conv.padding  # type: ignore[assignment]
    if isinstance(padding, str):  # torch keeps "same" in numbers, from the last axis to the first
        padding = tuple(conv._reversed_padding_repeated_twice[-2::-2])
    axes = len(conv.kernel_size)
    output_padding: Sequence[int] = (0,) * axes
    if isinstance(conv, _ConvTransposeNd):
        stride, kernel, dilation = list(conv.stride), list(conv.kernel_size), list(conv.dilation)
        output_padding = conv._output_padding(input, output_size, stride, list(padding), kernel, axes, dilation)  # type: ignore[arg-type]
    return Geometry(
        tuple(conv.stride), tuple(padding), tuple(conv.dilation), tuple(output_padding), conv.transposed, conv.groups
    )


def _without_zeros(input: Map, geometry: Geometry) -> tuple[tuple[Part, ...], Geometry]:
    """What the convolution is to load, and its geometry with the zeros in it that nobody needs to write."""
    if isinstance(input, Padded) and (apart := input.apart()) is not None:
        parts, around = apart
        found = absorbed(geometry, around)
        if not isinstance(found, str):
            return parts, found
    return parts_of(input), geometry


def _same_kind(input: Map, weight: Tensor) -> bool:
    """Whether input and weight have, or autocast will give them, one dtype that the op takes, on one device."""
    if input.device != weight.device or weight.dtype not in DTYPES:
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


class _Pad(_Layer, _ConstantPadNd):
    """Zeros around an activation that wait for a convolution, which takes them for padding of its own."""

    def _fused(self, input: Map) -> Any:
        around = zeros_of(self.padding, input.dim())
        if around is None or self.value != 0 or input.dtype not in DTYPES or input.dim() not in (4, 5):
            return NotImplemented
        return defer(Padded, parts_of(input), around, self._fastinpaint)


def pads_otherwise(pad: _ConstantPadNd) -> str | None:
    """Why no convolution can take it for padding of its own, in one sentence, or None."""
    if pad.value != 0:
        return f"value is {pad.value}; a convolution's own padding is zeros."
    return f"padding {pad.padding} cuts off; a convolution's own padding only adds." if min(pad.padding) < 0 else None


class ZeroPad2d(_Pad, nn.ZeroPad2d):
    """``torch.nn.ZeroPad2d`` over deferred activations."""


class ZeroPad3d(_Pad, nn.ZeroPad3d):
    """``torch.nn.ZeroPad3d`` over deferred activations."""


class ConstantPad2d(_Pad, nn.ConstantPad2d):
    """``torch.nn.ConstantPad2d`` over deferred activations."""


class ConstantPad3d(_Pad, nn.ConstantPad3d):
    """``torch.nn.ConstantPad3d`` over deferred activations."""


class _Norm(_Layer, _BatchNorm):
    """Batch norm that asks the convolution before it for its statistics and defers the rest."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Where nobody looks on, in training: the convolution before it runs, and this batch norm in its node."""
        found = None
        if len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        if not isinstance(args[0], Deferred):
            return self._by_torch(args[0]) if self._is_light(args[0]) else super().__call__(*args)
        raw = None
        if self.training:
            raw = args[0].waiting_conv()
            if raw is not None and self._joins(raw, args[0]):
                weight, bias = self._parameters["weight"], self._parameters["bias"]
                running = self._running(self._buffers["running_mean"], self._buffers["running_var"])
                found = raw.prepare(True, Norm(weight, bias, running, self.eps))
        if found is None or raw is None:
            return super().__call__(*args, **kwargs)
        raw.finish(found, apply_node(*found))
        if raw.vectors is None:
            return super().__call__(*args, **kwargs)
        return defer(Deferred, (raw.normalised(weight, bias, self.eps),), self._fastinpaint)

    def _is_light(self, input: Any) -> bool:
        """Whether nothing but a small plain map is to be normalised, by running statistics and without gradients."""
        if self.training or not self._fastinpaint_accelerated or torch.is_grad_enabled() or type(input) is not Tensor:
            return False
        return is_light(input.shape, input.device, self._fastinpaint.backend)

    def _joins(self, raw: PendingConv, input: Map) -> bool:
        """Whether this batch norm can be taken into the node of the convolution before it."""
        shape, parameters, buffers = raw.shape, self._parameters, self._buffers
        if not raw.mode.grad or shape[1] != self.num_features or self._process_group() is not None:
            return False
        if _values_per_channel(raw) <= 1 or "weight" not in parameters or "running_mean" not in buffers:
            return False
        device = raw.device
        vectors = (parameters["weight"], parameters["bias"], buffers["running_mean"], buffers["running_var"])
        self._check_input_dim(input)
        return all(v is None or (v.device == device and v.dtype in DTYPES) for v in vectors)

    def _fused(self, input: Map) -> Any:
        # each is read once: a parametrization computes it
        weight, bias, running_mean, running_var = self.weight, self.bias, self.running_mean, self.running_var
        shape, device = input.shape, input.device
        if input.dtype not in DTYPES or len(shape) not in (4, 5) or 0 in shape:
            return NotImplemented
        for tensor in (weight, bias, running_mean, running_var):
            if tensor is not None and (tensor.device != device or tensor.dtype not in DTYPES):
                return NotImplemented
        self._check_input_dim(input)
        if shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: input must have {self.num_features} channels, got {tuple(shape)}."
            )
        part, norm = self._part(input), Norm(weight, bias, self._running(running_mean, running_var), self.eps)
        count: int | Tensor = 0
        backend = self._fastinpaint.backend
        if self.training or running_mean is None or running_var is None:
            if self._normed(part.raw, norm):
                return defer(Deferred, [part.raw.normalised(weight, bias, self.eps)], self._fastinpaint)
            mean, var, count = self._batch_statistics(part.raw)
        else:
            if self._folds(part.raw):
                folded = part.raw.folded(*self._affine(running_mean, running_var, part.raw.dtype, norm))
                return defer(Deferred, [Part(folded)], self._fastinpaint)
            mean, var = running_mean.clone(), running_var.clone()  # training may change them before they are read
        if (
            isinstance(count, int)
            and not torch.compiler.is_compiling()
            and batch_norm.in_torch(backend, var, *norm[:3])
        ):
            wide = torch.float64 if part.raw.dtype == torch.float64 else torch.float32
            mean, var = mean if mean.dtype == wide else mean.to(wide), var if var.dtype == wide else var.to(wide)
            if norm.running is not None:
                update(mean.detach(), var.detach(), norm.running, count)
            later = Normed(mean, var, weight, bias, self.eps, of_batch=count > 0)
            return defer(Deferred, [Part(part.raw, norm=later)], self._fastinpaint)
        vectors = self._affine(mean, var, part.raw.dtype, norm, count)
        return defer(Deferred, [Part(part.raw, *vectors)], self._fastinpaint)

    def _part(self, input: Map) -> Part:
        """The map to be normalised, as it stands."""
        parts = parts_of(input)
        return parts[0] if len(parts) == 1 and parts[0].bare else Part(Raw(plain(input)))

    def _normed(self, raw: Raw, norm: Norm) -> TypeGuard[PendingConv]:
        """Whether the convolution before it has taken this batch norm into its node, and run."""
        few = _values_per_channel(raw) == 1  # a value a channel has no statistics
        if not isinstance(raw, PendingConv) or few or self._process_group() is not None:
            return False
        return raw.normed(norm)

    def _batch_statistics(self, raw: Raw) -> tuple[Tensor, Tensor, int | Tensor]:
        """Batch mean, biased variance, and of how many values a channel."""
        count = _values_per_channel(raw)
        mean, var = raw.statistics(self._fastinpaint.backend)
        group = self._process_group()
        if group is not None:
            return all_reduce_statistics(mean, var, count, group)
        if count == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {raw.shape}")
        return mean, var, count

    def _process_group(self) -> Any:
        """The processes that share their statistics, or None."""
        return None

    def _running(self, mean: Tensor | None, var: Tensor | None) -> Running | None:
        """The running statistics, where this batch is to change them."""
        if not (self.training and self.track_running_stats) or mean is None or var is None:
            return None
        tracked = self.num_batches_tracked
        return Running(mean, var, tracked, 0.0 if self.momentum is None and tracked is None else self.momentum)

    def _affine(
        self, mean: Tensor, var: Tensor, dtype: torch.dtype, norm: Norm, count: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mean, scale = weight / sqrt(var + eps) and shift = bias, in the dtype that sums are taken in.

        Running statistics follow mean and var, which were taken of `count` values, as torch's do.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mean, var = mean if mean.dtype == wide else mean.to(wide), var if var.dtype == wide else var.to(wide)
        weight, bias, running, eps = norm
        return mean, *batch_norm.apply(mean, var, weight, bias, running, count, eps, self._fastinpaint.backend)

    def _folds(self, raw: Raw) -> TypeGuard[PendingConv]:
        """Without gradients: whether the convolution takes this batch norm into its weight, as it has not run yet."""
        return isinstance(raw, PendingConv) and raw.x is None and not raw.mode.grad and not torch.is_grad_enabled()


def _values_per_channel(raw: Raw) -> int:
    """Of sizes that may be a compiler's symbols."""
    return raw.shape[0] * math.prod(raw.shape[2:])


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` over deferred activations."""


class BatchNorm3d(_Norm, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` over deferred activations."""


class SyncBatchNorm(_Norm, nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm`` over deferred activations, on any device: processes share (count, mean, M2)."""

    def _process_group(self) -> Any:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        group = self.process_group or torch.distributed.group.WORLD
        return group if torch.distributed.get_world_size(group) > 1 else None


class ReLU(_Layer, nn.ReLU):
    """``torch.nn.ReLU`` over deferred activations."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Where nobody looks on, without torch's own call of a module."""
        if len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        (input,) = args
        if isinstance(input, Deferred):
            return input.relu_() if self.inplace else input.relu()
        return self._by_torch(input) if type(input) is Tensor else super().__call__(input)

    def _fused(self, input: Map) -> Any:
        if not isinstance(input, Deferred):
            return NotImplemented
        return input.relu_() if self.inplace else input.relu()
