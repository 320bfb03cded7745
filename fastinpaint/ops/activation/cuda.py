"""`activation` and batch statistics in CUDA C++: one read of each input, one write of each output.

`reference` holds the contract. All returned maps are channels-last.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cuda as native
from fastinpaint.ops.types import Source, SourceGrad

CHANNELS_LAST = True


def why_not(sources: Sequence[Source]) -> str | None:
    """Why these sources cannot run here, in one sentence, or None."""
    return native.why_not(*(t for s in sources for t in (s.x, s.addend)))


def fwd(sources: Sequence[Source]) -> Tensor:
    """The activation ``[N, sum C_i, *space]``, channels-last, in the dtype of the sources."""
    first, channels = sources[0].x, sum(s.x.shape[1] for s in sources)
    a, offset = native.empty(first, channels), 0
    for source in sources:
        write(native.dense_source(source), a, offset)
        offset += source.x.shape[1]
    return a


def write(source: Source, a: Tensor, offset: int, scale_factor: float = 1.0, shift_factor: float = 1.0) -> None:
    """Write the activation of a dense source into the channels of a (dense, channels-last) from `offset` on."""
    if source.x.numel() == 0:
        return
    native.call(
        "activation", "fi_activation_fwd", a, ctypes.byref(native.c_source(source, scale_factor, shift_factor)),
        ctypes.c_void_p(a.data_ptr() + offset * a.element_size()), a.shape[1], native.size(native.positions(a)),
        native.DTYPES[a.dtype],
    )  # fmt: skip


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source. ``needs[i]`` tells whether source i needs any."""
    da, offset, grads = native.dense(da), 0, []
    for source, needed in zip(sources, needs, strict=True):
        grads.append(_source_bwd(da, offset, native.dense_source(source)) if needed else SourceGrad())
        offset += source.x.shape[1]
    return grads


def _source_bwd(da: Tensor, offset: int, source: Source) -> SourceGrad:
    x, channels = source.x, source.x.shape[1]
    part = da.narrow(1, offset, channels)
    dx, dmean, dscale, dshift = torch.empty_like(x), None, None, None
    if source.mean is not None:
        dmean, dscale, dshift = native.vector(x, channels), native.vector(x, channels), native.vector(x, channels)
    if x.numel() == 0:
        dmean, dscale, dshift = (None if v is None else v.zero_() for v in (dmean, dscale, dshift))
    else:
        rows = native.size(native.positions(x))
        space = native.workspace(x, native.library().fi_channel_workspace(rows, channels))
        start = ctypes.c_void_p(da.data_ptr() + offset * da.element_size())
        native.call(
            "activation", "fi_activation_bwd", x, start, da.shape[1], ctypes.byref(native.c_source(source)),
            *map(native.pointer, (dx, dmean, dscale, dshift, space)), rows, native.DTYPES[x.dtype],
        )  # fmt: skip
    return SourceGrad(dx, dmean, dscale, dshift, part if source.addend is not None else None)


def batch_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of each channel, float32, merged by Chan's formula."""
    channels = x.shape[1]
    mean, var = native.vector(x, channels), native.vector(x, channels)
    if x.numel() == 0:
        return mean.fill_(torch.nan), var.fill_(torch.nan)
    x, rows = native.dense(x), native.size(native.positions(x))
    space = native.workspace(x, native.library().fi_channel_workspace(rows, channels))
    native.call(
        "batch_stats", "fi_batch_stats", x, *(native.pointer(v) for v in (x, mean, var, space)), rows, channels,
        native.DTYPES[x.dtype],
    )  # fmt: skip
    return mean, var


def channel_sum(source: Source, scale_factor: float = 1.0, shift_factor: float = 1.0) -> Tensor:
    """The sum ``[C]``, float32, of a dense source's activation over N and space."""
    x = source.x
    total = native.vector(x, x.shape[1])
    if x.numel() == 0:
        return total.zero_()
    rows = native.size(native.positions(x))
    space = native.workspace(x, native.library().fi_channel_workspace(rows, x.shape[1]))
    native.call(
        "channel_sum", "fi_channel_sum", x, ctypes.byref(native.c_source(source, scale_factor, shift_factor)),
        native.pointer(total), native.pointer(space), rows, native.DTYPES[x.dtype],
    )  # fmt: skip
    return total
