"""`downsample` in CUDA C++: filling and both reductions in one pass. Contract: reference.py."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cuda as native

CHANNELS_LAST = True


class CDownsample(ctypes.Structure):
    """`fi::Downsample` of csrc/downsample/kernels.cuh."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("samples", "channels", "frames", "height", "width", "r")),
        ("stride", ctypes.c_int64 * 5),
        ("mask_stride", ctypes.c_int64 * 5),
    )


def why_not(video: Tensor, mask: Tensor) -> str | None:
    """Why these tensors cannot run here, in one sentence, or None."""
    if mask.dtype != video.dtype:
        return f"the cuda downsample needs a mask of the video's {video.dtype}, got {mask.dtype}."
    return native.why_not(video, mask)


def fwd(video: Tensor, mask: Tensor, mean_pixel: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Video ``[N, C, T, ceil(H/r), ceil(W/r)]``, channels-last, and mask ``[N, 1, T, ...]``; mean_pixel is ``[C]``."""
    n, c, t, h, w = video.shape
    shape = (n, c, t, -(-h // r), -(-w // r))
    small = torch.empty(shape, dtype=video.dtype, device=video.device, memory_format=torch.channels_last_3d)
    small_mask = torch.empty((n, 1, *shape[2:]), dtype=mask.dtype, device=mask.device)
    if small.numel() == 0:
        return small, small_mask
    axes, fill = range(5), mean_pixel.float().contiguous()
    what = CDownsample(n, c, t, h, w, r)
    what.stride[:], what.mask_stride[:] = native.strides(video, axes), native.strides(mask, axes)
    native.call(
        "downsample", "fi_downsample_fwd", video, *(native.pointer(x) for x in (video, mask, fill)),
        ctypes.byref(what), native.pointer(small), native.pointer(small_mask), native.DTYPES[video.dtype],
    )  # fmt: skip
    return small, small_mask
