"""The fused layers by name, and the smallest of them: zeros around a map, and ReLU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.padding import _ConstantPadNd

from fastinpaint.nn.batch_norm import BatchNorm2d, BatchNorm3d, SyncBatchNorm, _Norm
from fastinpaint.nn.convolution import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d, _Conv, geometry_of
from fastinpaint.nn.deferred import Deferred, defer, parts_of
from fastinpaint.nn.deferred_tensor import DeferredTensor, deferred_of
from fastinpaint.nn.layer import Map, _Layer
from fastinpaint.nn.observed import hooked, unobserved
from fastinpaint.nn.padded import Padded, zeros_of
from fastinpaint.ops.activation.checks import DTYPES
from fastinpaint.ops.norm_act import RELU

__all__ = [
    "BatchNorm2d",
    "BatchNorm3d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ReLU",
    "SyncBatchNorm",
    "ZeroPad2d",
    "ZeroPad3d",
    "_Conv",
    "_Norm",
    "geometry_of",
    "hooked",
    "pads_otherwise",
]


class _Pad(_Layer, _ConstantPadNd):
    """Zeros around an activation. They wait for a convolution, which adds them to its padding."""

    def _fused(self, input: Map) -> Any:
        around = zeros_of(self.padding, input.dim())
        if around is None or self.value != 0 or input.dtype not in DTYPES or input.dim() not in (4, 5):
            return NotImplemented
        return defer(Padded, parts_of(input), around, self._fastinpaint)


def pads_otherwise(pad: _ConstantPadNd) -> str | None:
    """Why no convolution can add it to its padding, in one sentence, or None."""
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


class ReLU(_Layer, nn.ReLU):
    """``torch.nn.ReLU`` over deferred activations."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The short way of an unobserved call."""
        if len(args) != 1 or kwargs or not unobserved(self):
            return super().__call__(*args, **kwargs)
        (input,) = args
        part = input.followed_by(RELU) if type(input) is DeferredTensor else None
        if part is not None:
            found = deferred_of(part, input._options)
            return input._in_place(found, F.relu_) if self.inplace else found
        if isinstance(input, Deferred):
            return input.relu_() if self.inplace else input.relu()
        return self._by_torch(input) if type(input) is Tensor else super().__call__(input)

    def _fused(self, input: Map) -> Any:
        if not isinstance(input, Deferred):
            return NotImplemented
        return input.relu_() if self.inplace else input.relu()
