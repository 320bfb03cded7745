"""What every Triton backend needs on the host: what can run here, dense channels-last maps, the device to launch on."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.dispatch.fast_path import AS_IT_IS

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
# For every launch: a multiply and an add become one instruction. Explicit, because Triton 3.10 changes its default.
OPTIONS = {"enable_fp_fusion": True}
ACTIVATE_FIRST = "FASTINPAINT_TRITON_ACTIVATE_FIRST"  # "0": no pass writes its maps before its products
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not(op: str, tensors: Sequence[Tensor]) -> str | None:
    """Why Triton kernels cannot take these maps, in one sentence, or None where they can."""
    first = tensors[0]
    if first.dtype not in DTYPES:
        return f"{op}: the Triton kernels take bfloat16, float16 and float32, got {first.dtype}."
    if first.dim() not in (4, 5):
        return f"{op}: the Triton kernels take [N, C, H, W] and [N, C, T, H, W], got {first.dim()} axes."
    return why_not_on(op, first)


def why_not_on(op: str, first: Tensor) -> str | None:
    """Why Triton kernels cannot run where this tensor is, in one sentence, or None where they can."""
    if not INSTALLED:
        return f"{op}: triton is not installed; `pip install 'fastinpaint[triton]'` brings it."
    if not INTERPRETING and first.device.type != "cuda":
        return f"{op}: the Triton kernels need tensors on a GPU, got device {first.device}."
    if not INTERPRETING and torch.version.hip is None and torch.cuda.get_device_capability(first.device) < (8, 0):
        return f"{op}: the Triton kernels need compute capability 8.0 or newer, {first.device} is older."
    return None


def shared_of_block() -> int:
    """Bytes of shared memory that a program may have on the current device; an H200's where there is none."""
    if INTERPRETING or not torch.cuda.is_initialized():
        return native_cuda.SHARED[9, 0]
    return _shared_of(torch.cuda.current_device())


def has_copy_engines() -> bool:
    """Whether the current device copies boxes of a map by itself; an H200, which does, where there is no device."""
    if INTERPRETING or not torch.cuda.is_initialized():
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability() >= (9, 0)


@functools.cache
def _shared_of(device: int) -> int:
    if torch.version.hip is not None:
        return 64 << 10  # gfx9's; newer ones have more
    return native_cuda.SHARED.get(torch.cuda.get_device_capability(device), native_cuda.SHARED_LEAST)


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of a launch that does not compile, does not fit or does not run here."""
    if not INSTALLED:
        return (RuntimeError,)
    from triton.errors import TritonError

    return (RuntimeError, TritonError)


def float_empty(like: Tensor, *shape: int) -> Tensor:
    """An empty float32 tensor beside another."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Launches inside go to x's device and its current stream."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return AS_IT_IS
    return torch.cuda.device(x.device)
