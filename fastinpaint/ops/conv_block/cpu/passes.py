"""A convolution and its batch norm, prepared: of a later call only addresses are filled in, and it calls C once.

A `Call` holds the `Passes` of its sources' shapes, dtypes and forms. They have the functions of the `cpu` module, which
take what they cannot: maps that are not dense, and passes that run on oneDNN.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.batch_norm.reference import Norm, Normed, normed_of
from fastinpaint.ops.conv_block.cpu import depthwise, direct, matmul, winograd
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.layout import FORMATS
from fastinpaint.ops.types import Geometry, Source, SourceGrad

KERNELS = (depthwise, matmul, winograd)  # in the order of `fi::Kernels` in csrc/conv_block/cpu/layer.cpp
C_LAYER = struct.Struct("@q4P3qd")  # `fi::Layer` of that file
C_FWD, C_BWD = struct.Struct("@13P2d2q"), struct.Struct("@11Pd2q")  # `fi::LayerFwd` and `fi::LayerBwd`
WIDE = torch.float32  # what vectors are in


class Passes:
    """fwd, fwd_norm, bwd and bwd_norm of sources, a weight and a geometry like those that it is made of.

    Like: of the same shapes, dtypes and strides of the weight, with the same relus and `select.settings`. No map is
    empty.
    """

    CHANNELS_LAST = True
    NORM_NEEDS_BYPASS = True  # `fwd_norm` gives what no registered operator can hand on
    FRESH_GRADIENTS = True  # none shares memory with another one or with dy
    fwd: Callable[..., Any]
    bwd: Callable[..., Any]
    why_not_norm: Callable[..., Any]

    def __init__(
        self, module: Any, kernels: Sequence[ModuleType | None], x: Tensor, weight: Tensor, geometry: Geometry
    ) -> None:
        """module: `cpu`. kernels: what its passes run on, the first of them one of `KERNELS`. x: a source's map."""
        self.module = module
        self.fwd, self.bwd, self.why_not_norm = module.fwd, module.bwd, module.why_not_norm
        self.threads = torch.get_num_threads()
        self.dtype, self.axes = x.dtype, FORMATS[x.dim()]
        self.shape = winograd.output_shape(x.shape, weight.shape, geometry)
        self.channels = self.shape[1]
        values = torch.Size(self.shape).numel()
        self.small = values * x.itemsize < buffer_pool.LEAST_BYTES
        kind: Any = kernels[0]
        # other rules of accuracy hold for bfloat16's weight gradients: see `select.exact_enough`
        self.backward = kernels[1] is kernels[2] is kind and x.dtype == torch.float32
        # what reaches y through its statistics is then added as often as a separate pass would
        self.once = kind is depthwise
        self.empty_gradient = winograd.empty_gradient if kind is winograd else torch.empty_like
        own: list[Any] = []
        if kind is winograd:
            own = [
                shape(x.shape, self.shape, weight.shape, geometry)
                for shape in (winograd.forward_shape, winograd.dgrad_shape)
            ]
        else:
            own = [direct.shape_of(x.shape, self.shape, weight.shape, geometry)] * 2
            if kind is matmul:
                self.once = self.backward and bool(native.library().fi_cpu_matmul_in_one_pass(ctypes.byref(own[0])))
        if kind is depthwise:
            own += [depthwise.strides(weight)] * 2
        else:
            own += [winograd.strides(weight, geometry, backward) for backward in (False, True)]
        layer = C_LAYER.pack(
            KERNELS.index(kind), *map(ctypes.addressof, own), self.channels, native.DTYPES[x.dtype],
            native.DTYPES[weight.dtype], values / self.channels,
        )  # fmt: skip
        self._alive = own, (memory := ctypes.create_string_buffer(layer, len(layer)))
        self._layer = ctypes.addressof(memory)

    def fwd_norm(
        self, sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, norm: Norm
    ) -> tuple[Tensor, Normed]:
        """As `cpu.fwd_norm`."""
        packed = self._packed(sources)
        if packed is None or (bias is not None and (bias.dtype != WIDE or not bias.is_contiguous())):
            return self.module.fwd_norm(sources, weight, bias, geometry, norm)
        if self.small:
            y = torch.empty(self.shape, dtype=self.dtype, memory_format=self.axes)
        else:
            y = buffer_pool.empty(self.shape, self.dtype, self.axes)
        mean = torch.empty(self.channels, dtype=WIDE)
        var, scale, shift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
        norm_weight, norm_bias, running, eps = norm
        running_mean = running_var = tracked = 0
        momentum: float | None = 0.0
        if running is not None:
            running_mean, running_var, momentum = running.mean.data_ptr(), running.var.data_ptr(), running.momentum
            tracked = 0 if running.tracked is None else running.tracked.data_ptr()
        native.library().fi_cpu_layer_fwd(
            C_FWD.pack(
                self._layer, weight.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr(), mean.data_ptr(),
                var.data_ptr(), scale.data_ptr(), shift.data_ptr(),
                0 if norm_weight is None else norm_weight.data_ptr(), 0 if norm_bias is None else norm_bias.data_ptr(),
                running_mean, running_var, tracked, momentum, eps, self.threads, len(sources),
            ) + packed
        )  # fmt: skip
        return y, normed_of((mean, scale, shift, None, None, var, eps, None))

    def bwd_norm(
        self,
        dy: Tensor,
        dmean: Tensor | None,
        dscale: Tensor | None,
        y: Tensor,
        normed: Normed,
        norm_weight: Tensor | None,
        sources: Sequence[Source],
        weight: Tensor,
        geometry: Geometry,
        needs: Sequence[bool],
        needs_weight: bool,
        needs_bias: bool,
    ) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
        """As `cpu.bwd_norm`."""
        packed = None
        if self.backward and needs_weight and True in needs and self._are_dense(dy, dmean, dscale):
            packed = self._packed(sources)
        if packed is None:
            return self.module.bwd_norm(
                dy, dmean, dscale, y, normed, norm_weight, sources, weight, geometry, needs, needs_weight, needs_bias
            )
        grads, addresses = native.empty_grads(sources, needs)
        dweight, mean = self.empty_gradient(weight), normed.mean
        dnorm_weight = None if norm_weight is None else torch.empty_like(mean)
        var: Any = normed.var
        native.library().fi_cpu_layer_bwd(
            C_BWD.pack(
                self._layer, weight.data_ptr(), dy.data_ptr(), y.data_ptr(), 0 if dmean is None else dmean.data_ptr(),
                0 if dscale is None else dscale.data_ptr(), mean.data_ptr(), normed.scale.data_ptr(), var.data_ptr(),
                0 if dnorm_weight is None else dnorm_weight.data_ptr(), dweight.data_ptr(), normed.eps,
                self.threads, len(sources),
            ) + packed + addresses
        )  # fmt: skip
        return grads, dweight, self.module.bias_grad(dy, dmean, weight) if needs_bias else None, dnorm_weight

    def _packed(self, sources: Sequence[Source]) -> bytes | None:
        """The sources as a C array; None where one is not dense."""
        packed, axes = b"", self.axes
        for x, mean, scale, shift, relu, addend in sources:
            vectors = (0, 0, 0)
            if mean is not None and scale is not None and shift is not None:
                if not (mean.dtype == scale.dtype == shift.dtype == WIDE) or not shift.is_contiguous():
                    return None
                if not (mean.is_contiguous() and scale.is_contiguous()):
                    return None
                vectors = (mean.data_ptr(), scale.data_ptr(), shift.data_ptr())
            if not x.is_contiguous(memory_format=axes):
                return None
            if addend is not None and (addend.dtype != x.dtype or not addend.is_contiguous(memory_format=axes)):
                return None
            at = 0 if addend is None else addend.data_ptr()
            packed += native.C_SOURCE.pack(x.data_ptr(), *vectors, at, x.shape[1], relu)
        return packed

    def _are_dense(self, dy: Tensor, *vectors: Tensor | None) -> bool:
        """Whether these gradients lie as the kernels read them."""
        for vector in vectors:
            if vector is not None and (vector.dtype != WIDE or not vector.is_contiguous()):
                return False
        return dy.dtype == self.dtype and dy.is_contiguous(memory_format=self.axes)


def prepare(
    module: Any, kernels: Sequence[ModuleType | None], sources: Sequence[Source], weight: Tensor, geometry: Geometry
) -> Passes | None:
    """The passes of a convolution that run on these kernels; None where one call of C cannot compute any."""
    if kernels[0] not in KERNELS or any(s.x.numel() == 0 for s in sources):
        return None
    if kernels[0] is winograd and (any(s.relu > 1 for s in sources) or winograd.apart_in_sets(weight) is not weight):
        return None
    if torch.empty_like(weight).stride() != weight.stride():  # its gradient would lie in another way
        return None
    return Passes(module, kernels, sources[0].x, weight, geometry)
