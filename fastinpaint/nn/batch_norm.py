"""Torch's batch norms over deferred activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastinpaint.nn import norm_of_parts
from fastinpaint.nn.activated import Normed
from fastinpaint.nn.deferred import Deferred, defer, parts_of, plain
from fastinpaint.nn.deferred_tensor import deferred_of
from fastinpaint.nn.layer import Map, _Layer
from fastinpaint.nn.observed import is_ordinary, unobserved
from fastinpaint.nn.pending_conv import PendingConv
from fastinpaint.nn.plans import is_light
from fastinpaint.nn.raw import Part, Raw
from fastinpaint.nn.sync import all_reduce_statistics
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.batch_norm import autograd as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Running, norm_of, running_of, update
from fastinpaint.ops.dispatch.fast_path import ORDINARY
from fastinpaint.ops.layout import FORMATS

OWN, RUNNING = {"weight", "bias"}, {"running_mean", "running_var"}


class _Norm(_Layer, _BatchNorm):
    """Batch norm that asks the convolution before it for statistics and defers the rest."""

    _axes = 0  # axes of its inputs; 0: `_check_input_dim` decides

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The short path of an unobserved call: runs the convolution before it, with this batch norm in its node."""
        if len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        (input,) = args
        if not isinstance(input, Deferred):
            return self._by_torch(input) if self._is_light(input) else super().__call__(input)
        raw = input.waiting_conv()
        norm = None if raw is None else self.joined(raw, input)
        if raw is None or norm is None:
            return super().__call__(input)
        if not self.training:
            return deferred_of(Part(self.folded(raw, norm)), self._fastinpaint)
        apply, arguments = raw.prepare(True, norm)
        raw.finish(arguments, apply(*arguments))
        if raw.vectors is None:
            return super().__call__(input)
        return deferred_of(raw.normalised(norm.weight, norm.bias, norm.eps), self._fastinpaint)

    def forward(self, input: Map, *args: Any, **kwargs: Any) -> Any:
        """As torch's, whose backward (seen in 2.13) is wrong for one sample that is a channels-last view.

        As ``x[i][None]``: there its first stride is another than torch's own maps have, and the gradient must have the
        result's layout.
        """
        result = super().forward(input, *args, **kwargs)
        seen = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        if seen or type(result) is not Tensor or len(result) != 1:
            return result
        if result.requires_grad and result.dim() in FORMATS and not result.is_contiguous():
            result.register_hook(partial(Tensor.contiguous, memory_format=FORMATS[result.dim()]))
        return result

    def _is_light(self, input: Any) -> bool:
        """Whether the input is a small plain map, normalised by running statistics and without gradients."""
        if self.training or not self._fastinpaint_accelerated or torch.is_grad_enabled() or type(input) is not Tensor:
            return False
        return is_light(input.shape, input.device, self._fastinpaint.backend)

    def joined(self, raw: PendingConv, input: Map | None = None) -> Norm | None:
        """This batch norm, for the convolution before it: for its node, or in evaluation for its weight; else None.

        input: the convolution's result, for torch's error where it has too many axes.
        """
        shape, parameters, buffers, training = raw.shape, self._parameters, self._buffers, self.training
        if raw.mode.grad != training or shape[1] != self.num_features or self._process_group() is not None:
            return None
        if shape.numel() <= shape[1] * training or not (parameters.keys() >= OWN and buffers.keys() >= RUNNING):
            return None  # one of them is computed
        if len(shape) != self._axes:
            if input is None:
                return None
            self._check_input_dim(input)
        weight, bias = parameters["weight"], parameters["bias"]
        mean, var, device = buffers["running_mean"], buffers["running_var"], raw.device
        for vector in (weight, bias, mean, var):
            if vector is not None and (vector.dtype not in DTYPES or vector.device != device):
                return None
            if vector is not None and type(vector) not in ORDINARY and not is_ordinary(vector):
                return None
        running = None
        if not training:
            return None if mean is None or var is None else Norm(weight, bias, Running(mean, var, None, None), self.eps)
        if self.track_running_stats and mean is not None and var is not None:
            tracked, momentum = buffers.get("num_batches_tracked"), self.momentum
            running = running_of((mean, var, tracked, 0.0 if momentum is None and tracked is None else momentum))
        return norm_of((weight, bias, running, self.eps))

    def folded(self, raw: PendingConv, norm: Norm) -> PendingConv:
        """The convolution with this batch norm, by the running statistics, in its weight."""
        weight, bias, running, eps = norm
        assert running is not None
        wide = torch.float64 if raw.dtype == torch.float64 else torch.float32
        mean, var = running.mean.to(wide), running.var.to(wide)
        module = batch_norm.module_of(self._fastinpaint.backend, var, weight, bias, None)
        scale, shift = module.fwd(mean, var, weight, bias, None, 0, eps)
        return raw.folded(mean, scale, shift)

    def _fused(self, input: Map) -> Any:
        # each is read once: a parametrization computes it
        weight, bias, running_mean, running_var = self.weight, self.bias, self.running_mean, self.running_var
        shape, device = input.shape, input.device
        if input.dtype not in DTYPES or len(shape) not in (4, 5) or 0 in shape:
            return NotImplemented
        for tensor in (weight, bias, running_mean, running_var):
            if tensor is not None and (tensor.device != device or tensor.dtype not in DTYPES):
                return NotImplemented
            if tensor is not None and not is_ordinary(tensor):
                return NotImplemented
        self._check_input_dim(input)
        if shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: input must have {self.num_features} channels, got {tuple(shape)}."
            )
        norm = Norm(weight, bias, self._running(running_mean, running_var), self.eps)
        parts = parts_of(input)
        if len(parts) > 1 and all(part.bare for part in parts):
            return self._over_parts(parts, norm, running_mean, running_var)
        part = self._part(input)
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

    def _over_parts(
        self, parts: Sequence[Part], norm: Norm, running_mean: Tensor | None, running_var: Tensor | None
    ) -> Any:
        """Of concatenated raw maps: none is copied, and the statistics of each are computed once for all norms."""
        count: int | Tensor = 0
        if self.training or running_mean is None or running_var is None:
            mean, var = norm_of_parts.statistics(parts, self._fastinpaint.backend)
            mean, var, count = self._shared(mean, var, parts[0].raw)
        else:
            mean, var = running_mean.clone(), running_var.clone()  # training may change them before they are read
        affine = partial(self._affine, dtype=parts[0].raw.dtype, norm=norm, count=count)
        of_batch = isinstance(count, int) and count > 0
        found = norm_of_parts.normalised(parts, mean, var, norm, of_batch, affine)
        return defer(Deferred, found, self._fastinpaint)

    def _part(self, input: Map) -> Part:
        """The map that is normalised."""
        parts = parts_of(input)
        return parts[0] if len(parts) == 1 and parts[0].bare else Part(Raw(plain(input)))

    def _normed(self, raw: Raw, norm: Norm) -> TypeGuard[PendingConv]:
        """Run the convolution before it with this batch norm in its node; returns whether that was possible."""
        few = _values_per_channel(raw) == 1  # one value per channel has no statistics
        if not isinstance(raw, PendingConv) or few or self._process_group() is not None:
            return False
        return raw.normed(norm)

    def _batch_statistics(self, raw: Raw) -> tuple[Tensor, Tensor, int | Tensor]:
        """Batch mean, biased variance, and the number of values per channel."""
        return self._shared(*raw.statistics(self._fastinpaint.backend), raw)

    def _shared(self, mean: Tensor, var: Tensor, raw: Raw) -> tuple[Tensor, Tensor, int | Tensor]:
        """The statistics, of all processes where they share them, and of how many values a channel."""
        count = _values_per_channel(raw)
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
        """The running statistics, if this batch updates them."""
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
        """Without gradients: whether the convolution, which has not run, can take this batch norm into its weight."""
        return isinstance(raw, PendingConv) and raw.x is None and not raw.mode.grad and not torch.is_grad_enabled()


def _values_per_channel(raw: Raw) -> int:
    """The product of sizes, which may be a compiler's symbols."""
    return raw.shape[0] * math.prod(raw.shape[2:])


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` over deferred activations."""

    _axes = 4


class BatchNorm3d(_Norm, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` over deferred activations."""

    _axes = 5


class SyncBatchNorm(_Norm, nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm`` over deferred activations, on any device: processes share (count, mean, M2)."""

    def _process_group(self) -> Any:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        group = self.process_group or torch.distributed.group.WORLD
        return group if torch.distributed.get_world_size(group) > 1 else None
