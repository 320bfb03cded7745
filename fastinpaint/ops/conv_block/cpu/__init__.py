"""`conv_block` on the CPU, channels-last: own kernels, or oneDNN's convolution between own elementwise ones.

Contract: reference.py. Each pass takes the faster of the two, by the rule of `select`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import cpu as activation
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block import zero_padding as zeros
from fastinpaint.ops.conv_block.cpu import select as cpu_choice
from fastinpaint.ops.conv_block.geometry import live_places
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source, SourceGrad

CHANNELS_LAST = True
LEAST_PLAIN = 1 << 17  # values: a pass of its own, which saves moving a map, takes as long in Python as these in memory
KEEPS_WEIGHT_LAYOUT = True  # dweight comes in the weight's


def why_not(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """Why this convolution cannot run here, in one sentence, or None."""
    return native.why_not(weight, *[t for s in sources for t in (s.x, s.addend)])


def normalises(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether some pass has a kernel that normalises what it loads. Else a plain map is better given to all of them."""
    return cpu_choice.own_all(sources, weight, geometry) != (None, None, None)


def fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y ``[N, C_out, *space]`` in the sources' dtype; batch mean and biased variance ``[C_out]`` where asked for."""
    mean = var = None
    sources = [native.dense_source(s) for s in sources]
    kernels, _, _ = cpu_choice.own_all(sources, weight, geometry)
    if kernels is not None:
        y, mean, var = kernels.fwd(sources, weight, bias, geometry, stats)
    else:
        y = convolution(activation.materialise(sources), weight, bias, geometry)
    return (y, *batch_stats(y)) if stats and mean is None else (y, mean, var)


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in the wide dtype: blocks of pixels merged by Chan's formula."""
    if y.numel() == 0:
        return reference.batch_stats(y)
    y = native.dense(y)
    wide = torch.float64 if y.dtype == torch.float64 else torch.float32
    mean, var = torch.empty(y.shape[1], dtype=wide), torch.empty(y.shape[1], dtype=wide)
    native.library().fi_cpu_batch_stats(
        y.data_ptr(), native.pixels(y), y.shape[1], mean.data_ptr(), var.data_ptr(), native.DTYPES[y.dtype],
        torch.get_num_threads(),
    )  # fmt: skip
    return mean, var


def upstream(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Source:
    """G, the gradient that reaches y, as a source: (y - mean) * scale + shift + dy."""
    if mean is None or dmean is None or dvar is None:
        return Source(dy)
    count = max(1, native.pixels(y))
    return Source(y, mean, dvar * (2 / count), dmean * (1 / count), False, dy)


def stats_bwd(dy: Tensor, dmean: Tensor | None, dvar: Tensor | None, y: Tensor, mean: Tensor | None) -> Tensor:
    """G: the gradient that reaches y through itself and through its statistics."""
    return activation.materialise([native.dense_source(upstream(dy, dmean, dvar, y, mean))])


def bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor,
    mean: Tensor | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
    """The gradients of every source, of the weight and of the bias; y and mean are what `fwd` returned."""
    g = native.dense_source(upstream(dy, dmean, dvar, y, mean))
    sources = [native.dense_source(s) for s in sources]
    grads, dweight = [SourceGrad() for _ in sources], None
    needs_input = any(needs)
    _, own_dgrad, own_wgrad = cpu_choice.own_all(sources, weight, geometry)
    if needs_input and own_dgrad is not None:
        grads = own_dgrad.dgrad(g, sources, weight, geometry, needs)
    if needs_weight and own_wgrad is not None:
        dweight = own_wgrad.wgrad(g, sources, weight, geometry)
    theirs = (needs_input and own_dgrad is None, needs_weight and own_wgrad is None)
    if any(theirs):
        da, their_dweight = convolution_bwd(activation.materialise([g]), sources, weight, geometry, *theirs)
        dweight = dweight if their_dweight is None else their_dweight
        grads = grads if da is None else activation.consume(da, sources, needs)
    return grads, dweight, _bias_grad(dy, dmean, weight) if needs_bias else None


def _bias_grad(dy: Tensor, dmean: Tensor | None, like: Tensor) -> Tensor:
    """sum G = sum dy + dmean: what reaches y through its variance sums to zero."""
    sums = activation.channel_sums(dy)
    return (sums if dmean is None or dy.numel() == 0 else sums + dmean).to(like.dtype)


def flat(geometry: Geometry, weight: Tensor) -> bool:
    """Whether a 3D convolution is a 2D one of every frame, which oneDNN has faster kernels for."""
    stride, padding, dilation, output_padding, _, _ = geometry
    time = (stride[0], padding[0], dilation[0], output_padding[0])
    return weight.dim() == 5 and weight.shape[2] == 1 and time == (1, 0, dilation[0], 0)


def in_plane(geometry: Geometry) -> Geometry:
    """The geometry without its axis of time."""
    stride, padding, dilation, output_padding, transposed, groups = geometry
    return Geometry(stride[1:], padding[1:], dilation[1:], output_padding[1:], transposed, groups)


def frames(x: Tensor) -> Tensor:
    """``[N, C, T, H, W]`` channels-last as ``[N * T, C, H, W]``, a view."""
    n, c, t, h, w = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(n * t, c, h, w)


def video(x: Tensor, batch: int, length: int) -> Tensor:
    """The inverse of `frames`, for `length` frames a sample."""
    return x.view(batch, length, *x.shape[1:]).permute(0, 2, 1, 3, 4)


def lonely(a: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN would take two videos of this size, but torch keeps one from it."""
    one = len(a) == 1 and a.dtype == torch.float32 and torch.get_num_threads() > 1
    return one and cpu_choice.torch_is_slow(a, a.shape[1], weight)


def with_company(x: Tensor) -> Tensor:
    """The one video of x, with an empty one behind it."""
    two = torch.empty((2, *x.shape[1:]), dtype=x.dtype, memory_format=torch.channels_last_3d)
    two[0], two[1] = x[0], 0
    return two


def convolution(a: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution of a dense map by oneDNN, in channels-last."""
    if flat(geometry, weight):
        plane = in_plane(geometry)
        return video(convolution(frames(a), weight[:, :, 0], bias, plane), a.shape[0], a.shape[2])
    if lonely(a, weight):
        return native.dense(convolution(with_company(a), weight, bias, geometry)[:1])
    return native.dense(zeros.convolution(a, native.dense(weight), bias, geometry))


def convolution_bwd(
    g: Tensor, sources: Sequence[Source], weight: Tensor, geometry: Geometry, needs_input: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """da, channels-last, and dweight, in the weight's layout, by oneDNN; what is not needed is None."""
    if not needs_input and not needs_weight:
        return None, None
    if needs_weight:
        a = activation.materialise(sources)
    else:  # of which only the shape is read
        x = sources[0].x
        a = native.dense(x) if len(sources) == 1 else native.empty(x, sum(s.x.shape[1] for s in sources))
    da, dweight = _convolution_bwd(g, a, weight, geometry, [needs_input, needs_weight, False])
    if dweight is not None and dweight.stride() != weight.stride():
        dweight = torch.empty_like(weight).copy_(dweight)
    return da, dweight


def has_dead_tap(g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether some tap of the kernel meets nothing but padding."""
    wide, narrow = (g, a) if geometry.transposed else (a, g)
    for i, taps in enumerate(weight.shape[2:]):
        stride, padding, dilation = (v[i] for v in geometry[:3])
        small, large = narrow.shape[2 + i], wide.shape[2 + i]
        if not all(live_places(small, large, k * dilation - padding, stride) for k in range(taps)):
            return True
    return False


def _convolution_bwd(
    g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    if flat(geometry, weight):
        plane = in_plane(geometry)
        da, dweight = _convolution_bwd(frames(g), frames(a), weight[:, :, 0], plane, mask)
        return None if da is None else video(
            da, a.shape[0], a.shape[2]
        ), None if dweight is None else dweight.unsqueeze(2)
    if mask[1] and reference.unwritten(g) and (g.dim() == 5 or has_dead_tap(g, a, weight, geometry)):
        da, dweight = _convolution_bwd(g.float(), a.float(), weight.float(), geometry, mask)
        return None if da is None else da.to(g.dtype), None if dweight is None else dweight.to(weight.dtype)
    if lonely(a, weight):
        da, dweight = _convolution_bwd(with_company(g), with_company(a), weight, geometry, mask)
        return None if da is None else native.dense(da[:1]), dweight
    return zeros.convolution_backward(g, a, native.dense(weight), geometry, mask)
