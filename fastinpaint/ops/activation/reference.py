"""`activation` in plain torch: any device, any dtype, float64 too. The oracle of every other backend.

    a = concat_i( (relu(z_i) if relu_i else z_i) + addend_i ),   z_i = (x_i - mean_i) * scale_i + shift_i

and, given da, with da_i the channels of source i:

    dz = da_i * 1[z_i > 0]  (da_i without relu)     dx = dz * scale     daddend = da_i
    dshift = sum dz      dscale = sum dz * (x - mean)      dmean = -scale * dshift

Sums run over N and space. Maps narrower than float32 are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.types import Source, SourceGrad

CHANNELS_LAST = False


def wide(x: Tensor) -> Tensor:
    """x in the dtype that its sums are taken in: float64 stays, all else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """``[C]`` as a view that broadcasts over ``[N, C, *space]``."""
    return vector.view(1, -1, *[1] * (like.dim() - 2))


def channel_dims(x: Tensor) -> list[int]:
    """Every axis but the channels'."""
    return [0, *range(2, x.dim())]


def normalised(source: Source) -> Tensor:
    """z of one source, in the wide dtype."""
    z = wide(source.x)
    if source.mean is not None and source.scale is not None and source.shift is not None:
        z = (z - per_channel(source.mean, z)) * per_channel(source.scale, z) + per_channel(source.shift, z)
    return z


def why_not(sources: Sequence[Source]) -> str | None:
    """The reference takes everything."""
    return None


def fwd(sources: Sequence[Source]) -> Tensor:
    """The activation ``[N, sum C_i, *space]``, in the dtype of the sources."""
    parts = []
    for source in sources:
        a = normalised(source)
        if source.relu:
            a = a.relu()
        if source.addend is not None:
            a = a + wide(source.addend)
        parts.append(a.to(source.x.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def bwd(da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The gradients of every source; ``needs[i]`` says whether source i wants any."""
    grads = []
    for part, source, needed in zip(da.split([s.x.shape[1] for s in sources], 1), sources, needs, strict=True):
        if not needed:
            grads.append(SourceGrad())
            continue
        dtype, dz = source.x.dtype, wide(part)
        if source.relu:
            dz = torch.where(normalised(source) <= 0, torch.zeros_like(dz), dz)
        dmean = dscale = dshift = None
        dx = dz
        if source.mean is not None and source.scale is not None:
            dims, centred = channel_dims(dz), wide(source.x) - per_channel(source.mean, dz)
            dshift, dscale = dz.sum(dims), (dz * centred).sum(dims)
            dmean, dx = -source.scale * dshift, dz * per_channel(source.scale, dz)
        grads.append(SourceGrad(dx.to(dtype), dmean, dscale, dshift, part if source.addend is not None else None))
    return grads
