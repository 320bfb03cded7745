"""`batch_norm` in CUDA C++: one small launch forward and one backward. `reference` holds the contract."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.ops.dispatch import native_cuda as native

IN_TORCH = False
DTYPES = {**native.DTYPES, torch.float64: 4}


class CPerChannel(ctypes.Structure):
    """`fi::PerChannel` of csrc/batch_norm/kernels.cuh."""

    _fields_ = (("data", ctypes.c_void_p), ("dtype", ctypes.c_int))


class CBatchNorm(ctypes.Structure):
    """`fi::BatchNorm`."""

    _fields_ = (
        *((name, CPerChannel) for name in ("weight", "bias", "running_mean", "running_var", "dweight")),
        *((name, ctypes.c_void_p) for name in ("mean", "var", "dscale", "total", "tracked", "scale", "shift", "dvar")),
        *((name, ctypes.c_double) for name in ("count", "momentum")),
        ("eps", ctypes.c_float),
        ("channels", ctypes.c_int),
    )


def why_not(var: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None) -> str | None:
    """Why this cannot run here, in one sentence, or None."""
    if var.dtype != torch.float32:
        return f"the cuda batch_norm takes float32 statistics, got {var.dtype}."
    return native.why_not_on(var)


def fwd(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    count: int | Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """scale and shift. Updates the running statistics in place, with any strides."""
    mean, var = mean.contiguous(), var.contiguous()
    weight, bias = None if weight is None else weight.contiguous(), None if bias is None else bias.contiguous()
    scale, shift = torch.empty_like(var), torch.empty_like(var)
    total = count.float() if isinstance(count, Tensor) else None
    call = _arguments(var, weight, eps)
    call.bias, call.mean, call.total = _vector(bias), native.address(mean), native.address(total)
    call.scale, call.shift = native.address(scale), native.address(shift)
    call.count = 0 if isinstance(count, Tensor) else count
    dense = None
    if running is not None:
        dense = running._replace(mean=running.mean.contiguous(), var=running.var.contiguous())
        call.running_mean, call.running_var = _vector(dense.mean), _vector(dense.var)
        call.tracked = native.address(running.tracked)
        call.momentum = -1.0 if running.momentum is None else running.momentum
    native.call("batch_norm", "fi_batch_norm_fwd", var, ctypes.byref(call))
    if running is not None and dense is not None:
        for given, changed in zip(running[:2], dense[:2], strict=True):
            if given is not changed:
                given.copy_(changed)
    return scale, shift


def bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients dvar and dweight."""
    dscale, var = dscale.contiguous(), var.contiguous()
    weight = None if weight is None else weight.contiguous()
    dvar = native.vector(var, len(var))
    dweight = torch.empty_like(weight) if needs_weight and weight is not None else None
    if len(var):
        call = _arguments(var, weight, eps)
        call.dscale, call.dvar, call.dweight = native.address(dscale), native.address(dvar), _vector(dweight)
        native.call("batch_norm", "fi_batch_norm_bwd", var, ctypes.byref(call))
    return dvar, dweight


def _arguments(var: Tensor, weight: Tensor | None, eps: float) -> CBatchNorm:
    return CBatchNorm(weight=_vector(weight), var=native.address(var), eps=eps, channels=len(var))


def _vector(tensor: Tensor | None) -> CPerChannel:
    return CPerChannel() if tensor is None else CPerChannel(tensor.data_ptr(), DTYPES[tensor.dtype])
