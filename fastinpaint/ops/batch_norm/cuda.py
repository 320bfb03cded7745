"""`batch_norm` in CUDA C++: one small launch forward and one backward. `reference` holds the contract."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from fastinpaint.ops.batch_norm.reference import Norm, Running
from fastinpaint.ops.dispatch import native_cuda as native

IN_TORCH = False
DTYPES = {**native.DTYPES, torch.float64: 4}


# `fi::BatchNorm` of csrc/batch_norm/kernels.cuh: weight, bias, running_mean, running_var and dweight, each an address
# and a dtype; mean, var, dscale, total, tracked, scale, shift and dvar; count and momentum; eps and channels.
PACKED = struct.Struct("@PiPiPiPiPi8P2dfi")


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
    scale, shift = torch.empty_like(var), torch.empty_like(var)
    total = count.float() if isinstance(count, Tensor) else None
    places = (mean.data_ptr(), var.data_ptr(), scale.data_ptr(), shift.data_ptr())
    norm, values = Norm(weight, bias, running, eps), 0 if isinstance(count, Tensor) else count
    packed, dense = pack_fwd(norm, values, len(var), *places, total=native.address(total) or 0)
    native.call("batch_norm", "fi_batch_norm_fwd", var, packed)
    put_back(running, dense)
    return scale, shift


def pack_fwd(
    norm: Norm, values: int, channels: int, mean: int, var: int, scale: int, shift: int, total: int = 0
) -> tuple[bytes, tuple[Tensor | None, ...]]:
    """A `CBatchNorm` for forward, and the dense vectors that it points to. Addresses are numbers; 0 for null.

    values: how many there are a channel, unless total is their number on the device.
    """
    weight, bias, running, eps = norm
    weight, bias = None if weight is None else weight.contiguous(), None if bias is None else bias.contiguous()
    running_mean = running_var = None
    tracked, momentum = 0, 0.0
    if running is not None:
        running_mean, running_var = running.mean.contiguous(), running.var.contiguous()
        tracked = 0 if running.tracked is None else running.tracked.data_ptr()
        momentum = -1.0 if running.momentum is None else running.momentum
    dense = (weight, bias, running_mean, running_var)
    addresses: list[int] = []
    for vector in dense:  # written out, as it is called once a layer
        addresses += (0, 0) if vector is None else (vector.data_ptr(), DTYPES[vector.dtype])
    packed = PACKED.pack(
        *addresses, 0, 0, mean, var, 0, total, tracked, scale, shift, 0, values, momentum, eps, channels,
    )  # fmt: skip
    return packed, dense


def put_back(running: Running | None, dense: tuple[Tensor | None, ...]) -> None:
    """Copy updated running statistics back where `pack_fwd` made a dense copy."""
    if running is not None:
        for given, changed in ((running.mean, dense[2]), (running.var, dense[3])):
            if changed is not None and given is not changed:
                given.copy_(changed)


def bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients dvar and dweight."""
    dvar = native.vector(var, len(var))
    dscale, var = dscale.contiguous(), var.contiguous()
    packed, dweight, _ = pack_bwd(dscale, var, weight, needs_weight, eps, dvar.data_ptr())
    if len(var):
        native.call("batch_norm", "fi_batch_norm_bwd", var, packed)
    return dvar, dweight


def pack_bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, needs_weight: bool, eps: float, dvar: int
) -> tuple[bytes, Tensor | None, Tensor | None]:
    """A `CBatchNorm` for backward of dense vectors, dweight that it writes, and the dense weight that it points to.

    dvar: the address that it writes it to.
    """
    weight = None if weight is None else weight.contiguous()
    dweight = torch.empty_like(weight) if needs_weight and weight is not None else None
    packed = PACKED.pack(
        *_per_channel(weight), 0, 0, 0, 0, 0, 0, *_per_channel(dweight),
        0, var.data_ptr(), dscale.data_ptr(), 0, 0, 0, 0, dvar, 0.0, 0.0, eps, var.shape[0],
    )  # fmt: skip
    return packed, dweight, weight


def _per_channel(tensor: Tensor | None) -> tuple[int, int]:
    return (0, 0) if tensor is None else (tensor.data_ptr(), DTYPES[tensor.dtype])
