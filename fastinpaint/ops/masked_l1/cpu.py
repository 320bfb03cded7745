"""`masked_l1` on the CPU: one pass forward, one backward, no full-size temporary. Contract: reference.py."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cpu as native


class CMaskedL1(ctypes.Structure):
    """`fi::MaskedL1` of csrc/masked_l1/cpu.h; it points into tensors, which must outlive it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("output", "target", "mask")),
        *((name, ctypes.c_int64) for name in ("batch", "channels", "frames", "pixels", "planar", "dtype")),
    )


def why_not(output: Tensor, target: Tensor, mask: Tensor) -> str | None:
    """Why these tensors cannot run here, in one sentence, or None."""
    return native.why_not(output, target, mask)


def _dense(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three in one dtype, output and target in one layout: planar if output is, else channels-last."""
    planar = output.is_contiguous()
    target, mask = target.to(output.dtype), mask.to(output.dtype).contiguous()
    return output if planar else native.dense(output), target.contiguous() if planar else native.dense(target), mask


def _arguments(output: Tensor, target: Tensor, mask: Tensor) -> Any:
    n, c, t, h, w = output.shape
    pointers = (tensor.data_ptr() for tensor in (output, target, mask))
    return ctypes.byref(CMaskedL1(*pointers, n, c, t, h * w, int(output.is_contiguous()), native.DTYPES[output.dtype]))


def fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """The loss, a scalar in the wide dtype; output and target ``[N, C, T, H, W]``, mask ``[N, 1, T, H, W]``."""
    output, target, mask = _dense(output, target, mask)
    loss = ctypes.c_double()
    native.library().fi_cpu_masked_l1_fwd(
        _arguments(output, target, mask), per_frame, ctypes.byref(loss), torch.get_num_threads()
    )
    return torch.tensor(loss.value, dtype=torch.float64 if output.dtype == torch.float64 else torch.float32)


def bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """doutput, in output's dtype and layout."""
    output, target, mask = _dense(output, target, mask)
    doutput = torch.empty_like(output)
    native.library().fi_cpu_masked_l1_bwd(
        _arguments(output, target, mask), per_frame, dloss.item(), doutput.data_ptr(), torch.get_num_threads()
    )
    return doutput
