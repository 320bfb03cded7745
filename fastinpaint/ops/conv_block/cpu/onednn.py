"""A convolution of a dense map by oneDNN, through torch, in the form that oneDNN has the fastest kernels for.

A 3D convolution without taps in time is a 2D one of its frames; a batch of one video that torch keeps from oneDNN is
padded to two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import cpu as activation
from fastinpaint.ops.conv_block import reference, zero_padding
from fastinpaint.ops.conv_block.cpu import select
from fastinpaint.ops.conv_block.geometry import live_places
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source


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


def needs_batch_padding(a: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN would take two videos of this size, but torch keeps one from it."""
    one = len(a) == 1 and a.dtype == torch.float32 and torch.get_num_threads() > 1
    return one and select.torch_is_slow(a, a.shape[1], weight)


def pad_batch(x: Tensor) -> Tensor:
    """The one video of x, with an empty one behind it."""
    two = torch.empty((2, *x.shape[1:]), dtype=x.dtype, memory_format=torch.channels_last_3d)
    two[0], two[1] = x[0], 0
    return two


def convolution(a: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution of a dense map by oneDNN, in channels-last."""
    if flat(geometry, weight):
        plane = in_plane(geometry)
        return video(convolution(frames(a), weight[:, :, 0], bias, plane), a.shape[0], a.shape[2])
    if needs_batch_padding(a, weight):
        return native.dense(convolution(pad_batch(a), weight, bias, geometry)[:1])
    return native.dense(zero_padding.convolution(a, native.dense(weight), bias, geometry))


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
    return da, None if dweight is None else _in_layout(dweight, weight)


def _in_layout(x: Tensor, like: Tensor) -> Tensor:
    """x with the strides of another tensor of its shape; a copy only where its values lie in another order."""
    if x.stride() == like.stride():
        return x
    steps = zip(x.shape, x.stride(), like.stride(), strict=True)
    if all(size == 1 or ours == theirs for size, ours, theirs in steps):
        return x.as_strided(like.shape, like.stride())
    return torch.empty_like(like).copy_(x)


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
    if needs_batch_padding(a, weight):
        da, dweight = _convolution_bwd(pad_batch(g), pad_batch(a), weight, geometry, mask)
        return None if da is None else native.dense(da[:1]), dweight
    return zero_padding.convolution_backward(g, a, native.dense(weight), geometry, mask)
