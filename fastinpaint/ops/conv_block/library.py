"""`conv_block` on cuDNN through torch, channels-last, with own elementwise kernels around it. Contract: reference.py.

Channels-last always: it is what cuDNN's tensor-core kernels read, and contiguous bfloat16 conv3d is refused by cuDNN
9.8 to 9.14, where torch falls back to a kernel that is four times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastinpaint.ops.activation.reference import channel_dims, wide
from fastinpaint.ops.conv_block import zero_padding
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.layout import dense
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = True


def norm_module() -> ModuleType:
    """What runs the batch norm that follows, see `fastinpaint.ops.conv_block.fused_bn`."""
    found = registry.find("batch_norm", "library")
    assert isinstance(found, ModuleType)
    return found


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why cuDNN, or the elementwise kernels around it, cannot take this, in one sentence, or None."""
    if weight.device.type != "cuda":
        return f"the library backend needs tensors on a cuda device, got one on {weight.device}."
    if not torch.backends.cudnn.is_available():
        return "this torch has no cuDNN."
    return registry.why_not("activation", "library", sources)


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; batch mean and biased variance ``[C_out]`` where asked for."""
    y = dense(zero_padding.convolution(_activation(sources), dense(weight), bias, geometry))
    return (y, *batch_stats(y)) if stats else (y, None, None)


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in the wide dtype."""
    module = _elementwise(y)
    if not hasattr(module, "batch_stats"):
        return registry.find("conv_block", module.__name__.rpartition(".")[2]).batch_stats(y)  # type: ignore[union-attr]
    return module.batch_stats(y)


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
    """The gradients of every source, of the weight and of the bias; y and mean are what `fwd` returned."""
    g = dense(dy)
    if y is not None and mean is not None and dmean is not None and dvar is not None:
        count = y.numel() // max(1, y.shape[1])
        # G = (y - mean) * 2 dvar / M + dmean / M + dy is an activation like any other
        g = _elementwise(y).fwd([Source(y, mean, 2 * dvar / count, dmean / count, False, g)])
    mask = [any(needs), needs_weight, False]
    da, dweight = zero_padding.convolution_backward(g, _activation(sources), dense(weight), geometry, mask)
    # the sum widens as it reads: no wide copy of the map
    dbias = g.sum(channel_dims(g), dtype=wide(g[:0]).dtype).to(weight.dtype) if needs_bias else None
    return _gradients(da, sources, needs), None if dweight is None else dweight.contiguous(), dbias


def _gradients(da: Tensor | None, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
    """The sources' gradients, without a pass over a map that is its own activation."""
    if da is None:
        return [SourceGrad() for _ in sources]
    if _is_plain(sources):
        return [SourceGrad(dense(da))]
    return _elementwise(da).bwd(dense(da), sources, needs)


def _is_plain(sources: Sequence[Source]) -> bool:
    first = sources[0]
    return len(sources) == 1 and first.mean is None and not first.relu and first.addend is None


def _elementwise(x: Tensor) -> ModuleType:
    return registry.choose("activation", "library", x.device, [Source(x)])


def _activation(sources: Sequence[Source]) -> Tensor:
    first = sources[0]
    return dense(first.x) if _is_plain(sources) else _elementwise(first.x).fwd(sources)
