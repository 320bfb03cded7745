"""`conv_block` in tf32 by plain PyTorch: float32 with both factors of every product rounded first.

    y = conv(r(a), r(weight)) + bias    da = conv_transposed(r(G), r(weight))    dweight = corr(r(a), r(G))

r keeps ten bits of mantissa, the nearest, ties away from zero. Contract: `fastinpaint.ops.conv_block.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fastinpaint.ops.activation import reference as activation
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.types import Geometry, Source, SourceGrad


@contextmanager
def allowed(yes: bool) -> Iterator[None]:
    """Set torch's flag temporarily."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = yes
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def rounded(x: Tensor) -> Tensor:
    """r(x) of finite float32."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `reference.fwd`."""
    return reference.fwd([Source(rounded(activation.fwd(sources)))], rounded(weight), bias, geometry, stats)


def bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """As `reference.bwd`."""
    g = reference.stats_bwd(dy, dmean, dvar, y, mean)
    rest = rounded(weight), geometry, [True], needs_weight
    a = [Source(rounded(activation.fwd(sources)))]
    (grad,), dweight, _ = reference.bwd(rounded(g), None, None, None, None, a, *rest, False)
    *_, dbias = reference.bwd(g, None, None, None, None, a, *rest, needs_bias)
    assert grad.x is not None
    return activation.bwd(grad.x, sources, needs), dweight, dbias
