"""`channel_scale` on the CPU: an own kernel, channels-last, one pass backward."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import address


class Problem(ctypes.Structure):
    """`fi::ChannelScaleProblem` of csrc/channel_scale/cpu.cpp."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "dtype"))


def fits(a: Tensor, s: Tensor) -> bool:
    """Whether the kernel can compute this: one factor for each channel, of every sample or of all alike."""
    shape, given = a.shape, s.shape
    return (
        a.device.type == "cpu"
        and len(given) == len(shape) > 3
        and given[0] in (1, shape[0])
        and given[1] == shape[1]
        and given[2:].numel() == 1
        and a.numel() > 0
        and s.dtype == a.dtype
        and s.device == a.device
        and native.why_not(a) is None
    )


@functools.lru_cache(1024)
def problem(shape: torch.Size, alike: bool, dtype: torch.dtype) -> Problem:
    """The sizes as the kernel takes them. Where all samples have the same factors they are one."""
    pixels = shape[2:].numel()
    samples = 1 if alike else shape[0]
    return Problem(samples, pixels * shape[0] // samples, shape[1], native.DTYPES[dtype])


def bwd(dp: Tensor, a: Tensor, s: Tensor, needs_map: bool) -> tuple[Tensor | None, Tensor]:
    """da, where it is needed, and ds in the shape of s."""
    dp, a, s = native.dense(dp), native.dense(a), s.contiguous()  # the kernel reads a copy: it must outlive the call
    da = native.empty_like(a) if needs_map else None
    ds = torch.empty(s.shape, dtype=torch.float64)
    native.library().fi_cpu_channel_scale_bwd(
        ctypes.byref(problem(a.shape, s.shape[0] == 1, a.dtype)), dp.data_ptr(), a.data_ptr(),
        s.data_ptr(), address(da), ds.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return da, ds.to(s.dtype)
