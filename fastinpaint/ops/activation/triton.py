"""`activation` in Triton: one launch a source forward; one, and a small one for the sums, a source backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops import triton_support as support
from fastinpaint.ops.activation.triton_launch import FINISH_BLOCK, NUM_WARPS, row_tiles
from fastinpaint.ops.types import Source, SourceGrad

if support.INSTALLED:
    from fastinpaint.ops.activation import triton_kernels as kernels

CHANNELS_LAST = True


def why_not(sources: Sequence[Source]) -> str | None:
    """Why these sources cannot be taken, or None."""
    return support.why_not("activation", [s.x for s in sources])


def rows_of(x: Tensor) -> int:
    return x.numel() // x.shape[1] if x.numel() else 0


def fwd(sources: Sequence[Source]) -> Tensor:
    """The activation ``[N, sum C_i, *space]``, dense channels-last, in the dtype of the sources."""
    x = sources[0].x
    total = sum(s.x.shape[1] for s in sources)
    out = support.empty_channels_last((x.shape[0], total, *x.shape[2:]), x)
    first = 0
    with support.on_device_of(x):
        for source in sources:
            if source.x.numel():
                _fwd_one(source, out, first, total)
            first += source.x.shape[1]
    return out


def _fwd_one(source: Source, out: Tensor, first: int, total: int) -> None:
    x, channels = support.channels_last(source.x), source.x.shape[1]
    rows = rows_of(x)
    tiles = row_tiles(rows, channels)
    # a view of the memory from the source's first channel on: the kernel counts columns from there
    columns = torch.as_strided(out, (rows, channels), (total, 1), first)
    kernels.activation_fwd_kernel[(-(-rows // tiles.block_r), tiles.channel_blocks)](
        x, source.mean, source.scale, source.shift, _dense(source.addend), columns, rows, channels, total,
        HAS_AFFINE=source.mean is not None, RELU=source.relu, HAS_ADDEND=source.addend is not None,
        BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS,
    )  # fmt: skip


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source; ``needs[i]`` says whether source i wants any."""
    da, first = support.channels_last(da), 0
    grads = []
    with support.on_device_of(da):
        for source, needed in zip(sources, needs, strict=True):
            grads.append(_bwd_one(da, source, first) if needed else SourceGrad())
            first += source.x.shape[1]
    return grads


def _bwd_one(da: Tensor, source: Source, first: int) -> SourceGrad:
    x, channels, total = support.channels_last(source.x), source.x.shape[1], da.shape[1]
    affine, rows = source.mean is not None, rows_of(source.x)
    tiles = row_tiles(rows, channels)
    dx = support.empty_channels_last(x.shape, x)
    daddend = support.empty_channels_last(x.shape, x) if source.addend is not None else None
    partial = support.float_empty(x, 2, channels, tiles.programs) if affine else None
    if rows:
        columns = torch.as_strided(da, (rows, channels), (total, 1), da.storage_offset() + first)
        kernels.activation_bwd_kernel[(tiles.programs, tiles.channel_blocks)](
            columns, x, source.mean, source.scale, source.shift, dx, daddend, partial,
            rows, channels, total, tiles.rows_per_program,
            HAS_AFFINE=affine, RELU=source.relu, HAS_ADDEND=daddend is not None,
            BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS,
        )  # fmt: skip
    if partial is None or source.scale is None:
        return SourceGrad(dx, addend=daddend)
    return SourceGrad(dx, *finish_sums(partial, source.scale), daddend)


def finish_sums(partial: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dmean, dscale and dshift ``[C]`` from partial sums ``[2, C, P]``."""
    _, channels, parts = partial.shape
    dmean, dscale, dshift = (support.float_empty(partial, channels) for _ in range(3))
    if channels:
        kernels.finish_sums_kernel[(channels,)](
            partial, scale, dmean, dscale, dshift, channels, parts, BLOCK=FINISH_BLOCK
        )
    return dmean, dscale, dshift


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]``, float32, of y ``[N, C, *space]``; NaN for an empty map, as torch's."""
    y, channels, rows = support.channels_last(y), y.shape[1], rows_of(y)
    tiles = row_tiles(rows, channels)
    if not rows:
        return tuple(torch.full((channels,), float("nan"), device=y.device) for _ in range(2))  # type: ignore[return-value]
    count = support.float_empty(y, tiles.programs)
    mean, m2 = (support.float_empty(y, channels, tiles.programs) for _ in range(2))
    with support.on_device_of(y):
        kernels.batch_stats_kernel[(tiles.programs, tiles.channel_blocks)](
            y, count, mean, m2, rows, channels, tiles.rows_per_program,
            BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS,
        )  # fmt: skip
        return finish_stats(count, mean, m2)


def finish_stats(count: Tensor, part_mean: Tensor, part_m2: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` from the parts' count ``[P]``, mean and M2 ``[C, P]``."""
    channels, parts = part_mean.shape
    mean, var = (support.float_empty(part_mean, channels) for _ in range(2))
    if channels:
        kernels.finish_stats_kernel[(channels,)](count, part_mean, part_m2, mean, var, parts, BLOCK=FINISH_BLOCK)
    return mean, var


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else support.channels_last(x)
