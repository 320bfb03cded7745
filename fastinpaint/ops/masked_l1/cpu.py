"""`masked_l1` on the CPU: one pass forward, one backward, no full-size temporary. Contract: reference.py."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fastinpaint.ops import native_cpu as native
from fastinpaint.ops.activation.reference import wide


def why_not(output: Tensor, target: Tensor, mask: Tensor) -> str | None:
    """Why these tensors cannot run here, in one sentence, or None."""
    return native.why_not(output, target, mask)


def _layout(output: Tensor) -> tuple[Tensor, ctypes.Array[ctypes.c_int64]]:
    """output with evenly spaced pixels, and (batch, channels, frames, pixels, strides of n, c, t, pixel)."""
    if not output.is_contiguous():
        output = native.dense(output)
    video = output if output.dim() == 5 else output.unsqueeze(2)
    n, c, t, h, w = video.shape
    strides = (c * t * h * w, t * h * w, h * w, 1) if output.is_contiguous() else (t * h * w * c, 1, h * w * c, c)
    return output, (ctypes.c_int64 * 8)(n, c, t, h * w, *strides)


def _as(like: Tensor, x: Tensor) -> Tensor:
    """x in like's dtype and layout; like is dense."""
    x = x.to(like.dtype)
    return x.contiguous() if like.is_contiguous() else native.dense(x)


def _group_sums(sums: Tensor, per_frame: bool) -> Tensor:
    """Per-frame sums ``[N, T]``, or over the frames of a sample where the groups are samples."""
    return sums if per_frame else sums.sum(1, keepdim=True)


def fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """The loss, a scalar in the wide dtype; output and target ``[N, C, T, H, W]``, mask ``[N, 1, T, H, W]``."""
    output, shape = _layout(output)
    target, mask = _as(output, target), mask.to(output.dtype).contiguous()
    sums = torch.empty((shape[0], shape[2], 2), dtype=torch.float64)
    native.library().fi_cpu_masked_l1_fwd(
        native.pointer(output), native.pointer(target), native.pointer(mask), shape, native.pointer(sums),
        native.DTYPES[output.dtype], torch.get_num_threads(),
    )  # fmt: skip
    error, holes = (_group_sums(part, per_frame) for part in sums.unbind(-1))
    return (error / (holes * shape[1])).mean().to(wide(output[:0]).dtype)


def bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """doutput, in output's dtype and layout."""
    output, shape = _layout(output)
    target, mask = _as(output, target), mask.to(output.dtype).contiguous()
    batch, channels, frames = shape[:3]
    holes = _group_sums(mask.double().flatten(-2).sum(-1).view(batch, frames), per_frame)
    factors = (dloss.double() / (holes * channels * holes.numel())).expand(batch, frames).contiguous()
    doutput = torch.empty_like(output)
    native.library().fi_cpu_masked_l1_bwd(
        native.pointer(output), native.pointer(target), native.pointer(mask), shape, native.pointer(factors),
        native.pointer(doutput), native.DTYPES[output.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return doutput
