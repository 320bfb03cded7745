"""`masked_l1` in CUDA C++: one pass forward, one backward, no full-size temporary. Contract: reference.py."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cuda as native


class CSlices(ctypes.Structure):
    """`fi::Slices` of csrc/masked_l1/kernels.cuh."""

    _fields_ = tuple(
        (name, ctypes.c_int) for name in ("samples", "channels", "frames", "length", "per_mask", "splits", "per_frame")
    )


def why_not(output: Tensor, target: Tensor, mask: Tensor) -> str | None:
    """Why these tensors cannot run here, in one sentence, or None."""
    if output.numel() == 0:
        return "the cuda masked_l1 needs at least one pixel."
    return native.why_not(output)


def _prepare(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> tuple[Tensor, Tensor, Tensor, CSlices]:
    """The three in one dtype and in output's layout (planar or channels innermost), and how they are cut."""
    if not output.is_contiguous():
        output = native.dense(output)
    n, c, t, h, w = output.shape
    planar = output.is_contiguous()
    target = target.to(output.dtype)
    target = target.contiguous() if planar else native.dense(target)
    per_mask = 1 if planar else c
    slices = CSlices(n, c, t, h * w * per_mask, per_mask, 0, int(per_frame))
    return output, target, mask.to(output.dtype).contiguous(), slices


def fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """The loss, a float32 scalar; output and target ``[N, C, T, H, W]``, mask ``[N, 1, T, H, W]``."""
    output, target, mask, slices = _prepare(output, target, mask, per_frame)
    loss = torch.empty((), dtype=torch.float32, device=output.device)
    space = native.workspace(output, native.library().fi_masked_l1_workspace(ctypes.byref(slices)))
    native.call(
        "masked_l1", "fi_masked_l1_fwd", output, *(native.pointer(t) for t in (output, target, mask)),
        ctypes.byref(slices), native.pointer(loss), native.pointer(space), native.DTYPES[output.dtype],
    )  # fmt: skip
    return loss


def bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """doutput, in output's dtype and layout."""
    output, target, mask, slices = _prepare(output, target, mask, per_frame)
    dloss, doutput = dloss.float().contiguous(), torch.empty_like(output)
    space = native.workspace(output, native.library().fi_masked_l1_workspace(ctypes.byref(slices)))
    native.call(
        "masked_l1", "fi_masked_l1_bwd", output, *(native.pointer(t) for t in (dloss, output, target, mask)),
        ctypes.byref(slices), native.pointer(doutput), native.pointer(space), native.DTYPES[output.dtype],
    )  # fmt: skip
    return doutput
