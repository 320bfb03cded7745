"""`activation` in Triton. Per two sources: one launch forward; one launch backward and a small one for its sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.activation.triton_launch import FINISH_BLOCK, NUM_WARPS, RowTiles, row_tiles
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.triton_launch import Launches
from fastinpaint.ops.types import Source, SourceGrad

if support.INSTALLED:
    from fastinpaint.ops.activation import triton_kernels as kernels

CHANNELS_LAST = True
T = TypeVar("T")
_writes = Launches()


def why_not(sources: Sequence[Source]) -> str | None:
    """Why these sources cannot run here, in one sentence, or None."""
    return support.why_not("activation", [s.x for s in sources])


def rows_of(x: Tensor) -> int:
    return x.numel() // x.shape[1] if x.numel() else 0


def fwd(sources: Sequence[Source]) -> Tensor:
    """The activation ``[N, sum C_i, *space]``, dense channels-last, in the dtype of the sources."""
    x = sources[0].x
    if len(sources) == 1 and x.numel():  # as is usual
        out = torch.empty_like(x, memory_format=layout.FORMATS[x.dim()])
        with support.on_device_of(x):
            _write(sources, out, 0)
        return out
    total = sum(s.x.shape[1] for s in sources)
    out = layout.empty((x.shape[0], total, *x.shape[2:]), x)
    filled, first = [s for s in sources if s.x.numel()], 0
    with support.on_device_of(x):
        for two in pairs(filled):
            _write(two, out, first)
            first += sum(s.x.shape[1] for s in two)
    return out


def pairs(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in groups of two, as many as one launch processes."""
    return [items[i : i + 2] for i in range(0, len(items), 2)]


def channel_blocks(channels: Sequence[int], tiles: RowTiles) -> int:
    """Total number of channel blocks of the sources. No block spans two sources."""
    blocks = 0
    for count in channels:
        blocks += -(-count // tiles.block_c)
    return blocks


def flags(sources: Sequence[Source]) -> dict[str, bool]:
    """Compile-time flags of the kernels for one or two sources."""
    first, second = sources[0], sources[1] if len(sources) > 1 else Source(sources[0].x)
    return {
        "HAS_AFFINE0": first.mean is not None,
        "RELU0": bool(first.relu),
        "HAS_ADDEND0": first.addend is not None,
        "HAS_AFFINE1": second.mean is not None,
        "RELU1": bool(second.relu),
        "HAS_ADDEND1": second.addend is not None,
        "HAS_SOURCE1": len(sources) > 1,
    }


def _write(sources: Sequence[Source], out: Tensor, first: int) -> None:
    """Write one or two sources into out's columns from channel ``first`` on."""
    rows, total = rows_of(out), out.shape[1]
    key: tuple[Any, ...] = (rows, total)
    operands = []
    for x, mean, scale, shift, relu, addend in sources:
        operands.append((layout.dense(x), mean, scale, shift, None if addend is None else layout.dense(addend)))
        key += (x.shape[1], mean is None, relu, addend is None)
    launch = _writes.get(kernels.activation_fwd_kernel, key)
    if launch is None:
        launch = _writes.keep(kernels.activation_fwd_kernel, key, *_prepare_write(sources, rows, total))
    if first:  # a view of the memory that starts at the first source's first channel, where the kernel counts from
        out = torch.as_strided(out, (rows, total - first), (total, 1), first)
    launch(*operands[0], *operands[-1], out)


def _prepare_write(sources: Sequence[Source], rows: int, total: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid and the constants of a launch that writes such sources."""
    channels = [s.x.shape[1] for s in sources]
    tiles = row_tiles(rows, max(channels))
    numbers = {
        "rows": rows, "channels0": channels[0], "channels1": channels[-1], "out_channels": total, **flags(sources),
        "BLOCK_R": tiles.block_r, "BLOCK_C": tiles.block_c, "num_warps": NUM_WARPS, **support.OPTIONS,
    }  # fmt: skip
    return (-(-rows // tiles.block_r), channel_blocks(channels, tiles)), numbers


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source. ``needs[i]`` tells whether source i needs any."""
    da, first = layout.dense(da), 0
    grads, wanted = [SourceGrad() for _ in sources], []
    for i, (source, needed) in enumerate(zip(sources, needs, strict=True)):
        if needed:
            wanted.append((i, source._replace(x=layout.dense(source.x)), first))
        first += source.x.shape[1]
    with support.on_device_of(da):
        for two in pairs(wanted):
            places, chosen, firsts = zip(*two, strict=True)
            for i, grad in zip(places, _bwd_two(da, chosen, firsts), strict=True):
                grads[i] = grad
    return grads


def _bwd_two(da: Tensor, sources: Sequence[Source], firsts: Sequence[int]) -> list[SourceGrad]:
    """The gradients of one or two sources, whose channels of da start at ``firsts``."""
    channels, rows = [s.x.shape[1] for s in sources], rows_of(da)
    tiles = row_tiles(rows, max(channels))
    grads = []
    for source in sources:
        dx, daddend = layout.empty(source.x.shape, source.x), None
        if source.addend is not None:
            daddend = layout.empty(source.x.shape, source.x)
        grads.append(SourceGrad(dx, addend=daddend))
    any_affine = any(s.mean is not None for s in sources)
    partial = support.float_empty(da, 2, sum(channels), tiles.programs) if any_affine else None
    if rows and any(channels):
        columns = [torch.as_strided(da, (da.numel() - f,), (1,), da.storage_offset() + f) for f in firsts]
        operands = [(c, *s[:4], g.x, g.addend) for c, s, g in zip(columns, sources, grads, strict=True)]
        kernels.activation_bwd_kernel[(tiles.programs, channel_blocks(channels, tiles))](
            *operands[0], *operands[-1], partial, rows, channels[0], channels[-1], da.shape[1], tiles.rows_per_program,
            **flags(sources), BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS, **support.OPTIONS,
        )  # fmt: skip
    return grads if partial is None else finish_sums(partial, sources, grads)


def finish_sums(partial: Tensor, sources: Sequence[Source], grads: Sequence[SourceGrad]) -> list[SourceGrad]:
    """Add the vectors' gradients of one or two sources from partial sums ``[2, C_0 + C_1, P]``."""
    _, all_channels, parts = partial.shape
    grads = with_vectors(sources, grads)
    if all_channels:
        kernels.finish_sums_kernel[(all_channels,)](
            partial, *vectors(sources, grads), sources[0].x.shape[1], all_channels, parts,
            **sums_flags(sources), BLOCK=FINISH_BLOCK, **support.OPTIONS,
        )  # fmt: skip
    return grads


def with_vectors(sources: Sequence[Source], grads: Sequence[SourceGrad]) -> list[SourceGrad]:
    """The gradients with empty tensors for those of the sources' vectors."""
    found = []
    for source, grad in zip(sources, grads, strict=True):
        mean = source.mean
        if mean is not None:
            vectors = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
            grad = SourceGrad(grad.x, *vectors, grad.addend)
        found.append(grad)
    return found


def vectors(sources: Sequence[Source], grads: Sequence[SourceGrad]) -> list[Tensor | None]:
    """scale, dmean, dscale and dshift of two sources, as arguments of the kernels that finish sums."""
    given: list[Tensor | None] = []
    for source, grad in zip(sources, grads, strict=True):
        given += (source.scale, grad.mean, grad.scale, grad.shift)
    return (given + [None] * 8)[:8]


def sums_flags(sources: Sequence[Source]) -> dict[str, bool]:
    """Which of two sources have sums to finish."""
    return {
        "HAS_SUMS0": len(sources) > 0 and sources[0].mean is not None,
        "HAS_SUMS1": len(sources) > 1 and sources[1].mean is not None,
    }


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]``, float32, of y ``[N, C, *space]``. NaN for an empty map, as in torch."""
    y, channels, rows = layout.dense(y), y.shape[1], rows_of(y)
    tiles = row_tiles(rows, channels)
    if not rows:
        return tuple(torch.full((channels,), float("nan"), device=y.device) for _ in range(2))  # type: ignore[return-value]
    stats = support.float_empty(y, stats_size(channels, tiles.programs))
    with support.on_device_of(y):
        kernels.batch_stats_kernel[(tiles.programs, tiles.channel_blocks)](
            y, stats, rows, channels, tiles.rows_per_program,
            BLOCK_R=tiles.block_r, BLOCK_C=tiles.block_c, num_warps=NUM_WARPS, **support.OPTIONS,
        )  # fmt: skip
        return finish_stats(stats, channels, tiles.programs)


def stats_size(channels: int, parts: int) -> int:
    """Items of the statistics of that many parts: a count each, and a mean and M2 for each channel."""
    return parts * (1 + 2 * channels)


def finish_stats(stats: Tensor, channels: int, parts: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` from the statistics of parts, which a kernel stored by `store_part`."""
    mean, var = support.float_empty(stats, channels), support.float_empty(stats, channels)
    if channels:
        kernels.finish_stats_kernel[(channels,)](stats, mean, var, parts, BLOCK=FINISH_BLOCK, **support.OPTIONS)
    return mean, var
