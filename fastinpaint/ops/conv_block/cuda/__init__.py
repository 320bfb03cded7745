"""`conv_block` in CUDA C++: activations on load, statistics and activation gradients on store.

`reference` holds the contract. All returned maps are channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block.cuda.abi import describe  # noqa: F401 - tests and tools take it from here
from fastinpaint.ops.conv_block.cuda.passes import Passes, passes_of
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch import native_cuda as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = True
OP = "conv_block"
MOST_TAPS, MOST_PHASES = 128, 27

batch_stats = activation.batch_stats


def prepare(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> Passes | None:
    """What runs all passes of such sources, with a batch norm that follows too. None for empty maps, as here."""
    channels, shape = sum([s.x.shape[1] for s in sources]), output_shape(sources[0].x.shape, weight.shape, geometry)
    empty = 0 in shape or not channels or 0 in sources[0].x.shape[2:]
    return None if empty else passes_of(sources, weight, geometry)


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why this convolution cannot run here, in one sentence, or None."""
    if geometry.groups > 1 and len(sources) > 1:
        return f"the cuda convolution with groups has one source, got {len(sources)} and groups={geometry.groups}."
    if len(sources) > 2:
        return f"the cuda convolution concatenates at most 2 sources, got {len(sources)}."
    if math.prod(weight.shape[2:]) > MOST_TAPS:
        return f"the cuda convolution has at most {MOST_TAPS} taps, got a kernel {tuple(weight.shape[2:])}."
    if math.prod(geometry.stride) > MOST_PHASES:
        return f"the cuda convolution's strides multiply to at most {MOST_PHASES}, got stride={geometry.stride}."
    return native.why_not(weight, *(t for s in sources for t in (s.x, s.addend)))


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; with ``stats`` also its mean and biased variance ``[C_out]``."""
    passes = prepare(sources, weight, geometry)
    if passes is not None:
        return passes.fwd(sources, weight, bias, geometry, stats)
    y, mean, var = reference.fwd(sources, weight, bias, geometry, stats)
    return native.dense(y), mean, var


def upstream(
    dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor | None, mean: Tensor | None
) -> tuple[Source, float, float]:
    """G, the total gradient of y, as a dense source with the factors of its scale and shift."""
    if mean is None or dmean is None or dvar is None or y is None:
        return Source(native.dense(dy)), 1.0, 1.0
    count = native.positions(y)
    source = native.dense_source(Source(y, mean, dvar, dmean, False, dy))
    return (source, 2.0 / count, 1.0 / count) if count else (Source(source.x), 1.0, 1.0)


def stats_bwd(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Tensor:
    """G, the total gradient of y: dy plus the terms of its statistics."""
    source, scale_factor, shift_factor = upstream(dy, dmean, dvar, y, mean)
    g = native.empty(source.x, source.x.shape[1])
    activation.write(source, g, 0, scale_factor, shift_factor)
    return g


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
    """The gradients of every source, the weight and the bias. y and mean are `fwd`'s results."""
    passes = prepare(sources, weight, geometry)
    if passes is not None:
        return passes.bwd(dy, dmean, dvar, y, mean, sources, weight, geometry, needs, needs_weight, needs_bias)
    grads = []
    for source, needed in zip(sources, needs, strict=True):
        given = (source.x, source.mean, source.scale, source.shift, source.addend)
        grads.append(SourceGrad(*(torch.zeros_like(v) if needed and v is not None else None for v in given)))
    dweight = torch.zeros_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
    g, *factors = upstream(dy, dmean, dvar, y, mean)
    return grads, dweight, activation.channel_sum(g, *factors).to(weight.dtype) if needs_bias else None
