"""`batch_norm` on the CPU.

Alone it is the reference: torch on short vectors costs less than a node of the graph in Python. Behind a convolution,
in the convolution's own node, it is one call of csrc/batch_norm/cpu.cpp forward and one backward.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from fastinpaint.ops.batch_norm.reference import IN_TORCH, Norm, Normed, Running, bwd, fwd
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Source

__all__ = ["IN_TORCH", "bwd", "finish", "fwd", "upstream", "why_not", "why_not_after"]

C_FWD, C_BWD = struct.Struct("@9P2q3d"), struct.Struct("@7P2q2d")  # `fi::BatchNormFwd`, `fi::BatchNormBwd`


def why_not(var: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None) -> str | None:
    """Why this cannot run here, in one sentence, or None."""
    return None if var.device.type == "cpu" else f"the cpu backend needs tensors on the cpu, got one on {var.device}."


def why_not_after(x: Tensor, norm: Norm) -> str | None:
    """Why no convolution of a map like x can finish this batch norm too, in one sentence, or None."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias, running, _ = norm
    for vector in (weight, bias) if running is None else (weight, bias, running.mean, running.var):
        if vector is not None and (vector.dtype != wide or not vector.is_contiguous()):
            return f"batch_norm: the cpu kernel takes dense {wide} vectors, got {vector.dtype}."
    return None


def finish(mean: Tensor, var: Tensor, norm: Norm, values: int) -> Normed:
    """`Normed` from a map's statistics, of so many values a channel; the running statistics follow, in place."""
    weight, bias, running, eps = norm
    scale, shift = torch.empty_like(mean), torch.empty_like(mean)
    running_mean = running_var = tracked = 0
    momentum: float | None = 0.0
    if running is not None:
        running_mean, running_var, momentum = running.mean.data_ptr(), running.var.data_ptr(), running.momentum
        tracked = 0 if running.tracked is None else running.tracked.data_ptr()
    native.library().fi_cpu_batch_norm_fwd(
        C_FWD.pack(
            mean.data_ptr(), var.data_ptr(), 0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(), running_mean, running_var, tracked, scale.data_ptr(),
            shift.data_ptr(), mean.shape[0], mean.dtype == torch.float64,
            values / max(1, values - 1), momentum, eps,
        )
    )  # fmt: skip
    return Normed(mean, scale, shift, var=var, eps=eps)


def upstream(
    dy: Tensor, dmean: Tensor | None, dscale: Tensor | None, y: Tensor, normed: Normed, norm_weight: Tensor | None
) -> tuple[Source, Tensor | None]:
    """G, the gradient that reaches y, as a source: (y - mean) * scale + shift + dy; and norm_weight's, where given."""
    if dmean is None and dscale is None:
        return Source(dy), None if norm_weight is None else torch.zeros_like(norm_weight)
    mean, var, wide = normed.mean, normed.var, normed.mean.dtype
    assert var is not None
    if dmean is not None:
        dmean = (dmean if dmean.dtype == wide else dmean.to(wide)).contiguous()
    if dscale is not None:
        dscale = (dscale if dscale.dtype == wide else dscale.to(wide)).contiguous()
    by_y, constant = torch.empty_like(mean), torch.empty_like(mean)
    dweight = None if norm_weight is None else torch.empty_like(mean)
    native.library().fi_cpu_batch_norm_bwd(
        C_BWD.pack(
            0 if dmean is None else dmean.data_ptr(), 0 if dscale is None else dscale.data_ptr(),
            normed.scale.data_ptr(), var.data_ptr(), by_y.data_ptr(), constant.data_ptr(),
            0 if dweight is None else dweight.data_ptr(), mean.shape[0], mean.dtype == torch.float64,
            max(1, y.numel() // mean.shape[0]), normed.eps,
        )
    )  # fmt: skip
    return Source(y, mean, by_y, constant, False, dy), dweight
