"""`activation` on the CPU: own kernels, channels-last, one pass forward and one backward. Contract: reference.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.layout import FORMATS
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
    """`fwd` of dense sources. A single source with nothing to compute is returned as it is."""
    first = sources[0]
    x = first.x
    if len(sources) > 1:
        a = native.empty(x, sum(s.x.shape[1] for s in sources))
    elif first.mean is None and not first.relu and first.addend is None:
        return x
    else:
        a = native.empty_like(x)
    channels = a.shape[1]
    native.library().fi_cpu_activation_fwd(
        native.c_sources(sources), len(sources), a.data_ptr(), a.numel() // channels if channels else 0,
        native.DTYPES[x.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return a


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source; ``needs[i]`` says whether source i wants any. Same sums for any thread count."""
    return consume(da.clone() if len(sources) == 1 else da, [native.dense_source(s) for s in sources], needs)


def consume(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """`bwd` of dense sources and a da that nobody else reads. A gradient that equals da is da itself."""
    layout = FORMATS[da.dim()]
    da = da.contiguous(memory_format=layout)
    grads, offset, stride = [], 0, da.shape[1]
    for source, needed in zip(sources, needs, strict=True):
        x, mean, scale, _, relu, addend = source
        channels, first = x.shape[1], offset
        offset += channels
        if not needed:
            grads.append(SourceGrad())
            continue
        plain, daddend = mean is None and not relu, None
        if plain or addend is not None:
            part = da.narrow(1, first, channels).contiguous(memory_format=layout)
            daddend = None if addend is None else part
            if plain:
                grads.append(SourceGrad(part if daddend is None else part.clone(), addend=daddend))
                continue
        small = x.nbytes < buffer_pool.LEAST_BYTES
        dx = torch.empty_like(x, memory_format=layout) if small else native.empty_like(x)
        dmean = dscale = dshift = None
        if mean is not None:
            dshift, dscale = torch.empty_like(mean), torch.empty_like(mean)
        native.library().fi_cpu_activation_bwd(
            native.c_sources([source]), da.data_ptr(), stride, first, dx.data_ptr(), address(dshift), address(dscale),
            x.numel() // channels if channels else 0, native.DTYPES[da.dtype], torch.get_num_threads(),
        )  # fmt: skip
        if scale is not None and dshift is not None:
            dmean = -scale * dshift
        grads.append(SourceGrad(dx, dmean, dscale, dshift, daddend))
    return grads


def channel_sums(x: Tensor) -> Tensor:
    """Sum over N and space, ``[C]``, in the wide dtype."""
    x = native.dense(x)
    sums = torch.empty(x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    products = torch.empty_like(sums)  # which the kernel writes as well
    native.library().fi_cpu_activation_bwd(
        native.c_sources([Source(x)]), x.data_ptr(), x.shape[1], 0, None, sums.data_ptr(),
        products.data_ptr(), native.pixels(x), native.DTYPES[x.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return sums
