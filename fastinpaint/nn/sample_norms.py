"""Torch's norms by the statistics of each sample, over deferred activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastinpaint.nn.activated import Activated, Normed
from fastinpaint.nn.deferred import HANDLERS, Deferred, defer, parts_of, plain
from fastinpaint.nn.layers import Map, _Layer
from fastinpaint.nn.observed import is_ordinary
from fastinpaint.nn.raw import Part, Raw
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.dispatch.fast_path import autocasts
from fastinpaint.ops.norm_act import NONE
from fastinpaint.ops.norm_act import autograd as norm_act


def contiguous_gradient(result: Any, axes: int = 0) -> Any:
    """A contiguous map of one sample, whose gradient is made contiguous first.

    Instance norm of torch returns such a map, and (seen in 2.13) wrong gradients where it is given a channels-last one.

    Args:
        axes: of a batch; a map with one axis less is one sample.
    """
    if type(result) is not Tensor or not result.requires_grad:
        return result
    dims = result.dim()
    if dims not in (3, 4, 5) or (dims > 3 and dims != axes - 1 and len(result) != 1):
        return result
    if result.is_contiguous() and not torch.compiler.is_compiling():
        result.register_hook(Tensor.contiguous)
    return result


class _SampleNorm(_Layer):
    """A norm that takes the statistics of its input and defers the rest."""

    weight: Any
    bias: Any
    eps: float

    def _groups(self, shape: torch.Size) -> int | None:
        """Groups of channels, 0 for one a channel; None where torch must say what is wrong with such an input."""
        raise NotImplementedError

    def _fused(self, input: Map) -> Any:
        shape, device, options = input.shape, input.device, self._fastinpaint
        if torch.compiler.is_compiling() or input.dtype not in DTYPES or len(shape) not in (4, 5) or 0 in shape:
            return NotImplemented
        groups = self._groups(shape)
        if groups is None or autocasts(device) or not norm_act.runs(options.backend, device):
            return NotImplemented
        weight, bias = self.weight, self.bias  # each is read once: a parametrization computes it
        for tensor in (weight, bias):
            if tensor is None:
                continue
            if tensor.device != device or tensor.dtype != input.dtype or not is_ordinary(tensor):
                return NotImplemented
        parts = parts_of(input)
        raw = parts[0].raw if len(parts) == 1 and parts[0].bare else Raw(plain(input))
        mean, var = norm_act.stats(raw.tensor(), True, groups, options.backend)
        norm = Normed(mean, var, weight, bias, self.eps, groups)
        return defer(Deferred, [Part(Activated(raw, norm, NONE, None, options))], options)


class _InstanceNorm(_SampleNorm):
    num_features: int
    running_mean: Any
    axes: int

    def forward(self, input: Map, *args: Any, **kwargs: Any) -> Any:
        return contiguous_gradient(super().forward(input, *args, **kwargs), self.axes)

    def _groups(self, shape: torch.Size) -> int | None:
        """Running statistics, a single value and an unbatched input are left to torch."""
        fits = len(shape) == self.axes and shape[1] == self.num_features and math.prod(shape[2:]) > 1
        return 0 if fits and self.running_mean is None else None


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """``torch.nn.InstanceNorm2d`` over deferred activations."""

    axes = 4


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """``torch.nn.InstanceNorm3d`` over deferred activations."""

    axes = 5


class GroupNorm(_SampleNorm, nn.GroupNorm):
    """``torch.nn.GroupNorm`` over deferred activations of four or five axes."""

    def _groups(self, shape: torch.Size) -> int | None:
        return self.num_groups if shape[1] == self.num_channels else None


def _instance_norm(input: Any, *args: Any, **kwargs: Any) -> Any:
    return contiguous_gradient(F.instance_norm(plain(input), *plain(args), **plain(kwargs)))


HANDLERS[F.instance_norm] = _instance_norm
