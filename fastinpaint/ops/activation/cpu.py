"""`activation` on the CPU: own kernels, channels-last, one pass forward and one backward. Contract: reference.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Source, SourceGrad, address

CHANNELS_LAST = True


def why_not(sources: Sequence[Source]) -> str | None:
    """Why these sources cannot run here, in one sentence, or None."""
    return native.why_not(*(t for s in sources for t in (s.x, s.addend)))


def fwd(sources: Sequence[Source]) -> Tensor:
    """The activation ``[N, sum C_i, *space]``, channels-last, in the dtype of the sources."""
    a = materialise([native.dense_source(s) for s in sources])
    return a.clone() if a is sources[0].x else a


def materialise(sources: Sequence[Source]) -> Tensor:
    """`fwd` of dense sources, but one alone with nothing to do is handed back as it is."""
    first = sources[0]
    if len(sources) == 1 and first.mean is None and not first.relu and first.addend is None:
        return first.x
    channels = first.x.shape[1] if len(sources) == 1 else sum(s.x.shape[1] for s in sources)
    a = native.empty(first.x, channels)
    native.library().fi_cpu_activation_fwd(
        native.c_sources(sources), len(sources), a.data_ptr(), native.pixels(a), native.DTYPES[a.dtype],
        torch.get_num_threads(),
    )  # fmt: skip
    return a


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source; ``needs[i]`` says whether source i wants any. Same sums for any thread count."""
    return consume(da.clone() if len(sources) == 1 else da, [native.dense_source(s) for s in sources], needs)


def consume(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """`bwd` of dense sources and a da that nobody else reads: where it is a gradient as it stands, it is handed on."""
    da = native.dense(da)
    grads, offset = [], 0
    for source, needed in zip(sources, needs, strict=True):
        grads.append(_source_bwd(da, offset, source) if needed else SourceGrad())
        offset += source.x.shape[1]
    return grads


def _source_bwd(da: Tensor, offset: int, source: Source) -> SourceGrad:
    plain = source.mean is None and not source.relu
    part = native.dense(da.narrow(1, offset, source.x.shape[1])) if plain or source.addend is not None else None
    daddend = part if source.addend is not None else None
    if plain:
        return SourceGrad(x=part if daddend is None else daddend.clone(), addend=daddend)
    dx = native.empty_like(source.x)
    dshift = dscale = dmean = None
    if source.mean is not None:
        dshift, dscale = torch.empty_like(source.mean), torch.empty_like(source.mean)
    _call_bwd(source, da, da.shape[1], offset, dx, dshift, dscale)
    if source.scale is not None and dshift is not None:
        dmean = -source.scale * dshift
    return SourceGrad(dx, dmean, dscale, dshift, daddend)


def _call_bwd(
    source: Source,
    da: Tensor,
    stride: int,
    offset: int,
    dx: Tensor | None,
    dshift: Tensor | None,
    dscale: Tensor | None,
) -> None:
    native.library().fi_cpu_activation_bwd(
        native.c_sources([source]), da.data_ptr(), stride, offset, address(dx), address(dshift), address(dscale),
        native.pixels(source.x), native.DTYPES[da.dtype], torch.get_num_threads(),
    )  # fmt: skip


def channel_sums(x: Tensor) -> Tensor:
    """Sum over N and space, ``[C]``, in the wide dtype."""
    x = native.dense(x)
    sums = torch.empty(x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    _call_bwd(Source(x), x, x.shape[1], 0, None, sums, torch.empty_like(sums))
    return sums
