"""A convolution of a dense map by oneDNN, through torch, in the form that oneDNN has the fastest kernels for.

A 3D convolution without taps in time is a 2D one of its frames; a batch of one video that torch keeps from oneDNN is
padded to two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.ops.conv_block import zero_padding
from fastinpaint.ops.conv_block.cpu import select
from fastinpaint.ops.conv_block.geometry import live_places
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry


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
    shape, threads = a.shape, torch.get_num_threads()
    if shape[0] != 1 or threads == 1 or a.dtype != torch.float32:
        return False
    return select.torch_is_slow(shape, shape[1], weight.shape, threads)


def pad_batch(x: Tensor) -> Tensor:
    """The single video of x, followed by an empty one."""
    two = torch.empty((2, *x.shape[1:]), dtype=x.dtype, memory_format=torch.channels_last_3d)
    two[0], two[1] = x[0], 0
    return two


def convolution(a: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution of a dense map by oneDNN, in channels-last. The weight is rounded to the map's dtype."""
    weight, bias = weight.to(a.dtype), None if bias is None else bias.to(a.dtype)
    batch, plane = a.shape[0], flat(geometry, weight)
    if plane:
        y = zero_padding.convolution(frames(a), native.dense(weight[:, :, 0]), bias, in_plane(geometry))
        return native.dense(video(native.dense(y), batch, a.shape[2]))
    padded = needs_batch_padding(a, weight)
    y = zero_padding.convolution(pad_batch(a) if padded else a, native.dense(weight), bias, geometry)
    return native.dense(y[:1] if padded else y)


def convolution_bwd(
    g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """da, channels-last, and dweight of `convolution`.

    Args:
        g, a: the gradient of y and the input, dense. Where dweight is not wanted, only a's shape is read.
        mask: whether da is wanted, whether dweight is, and False.
    """
    batch, plane, dtype = a.shape[0], flat(geometry, weight), weight.dtype
    length = a.shape[2]
    weight = weight.to(g.dtype)
    if plane:
        g, a, weight, geometry = frames(g), frames(a), weight[:, :, 0], in_plane(geometry)
    if mask[1] and g.dtype == torch.bfloat16 and (g.dim() == 5 or has_dead_tap(g, a, weight, geometry)):
        # oneDNN may leave parts of dweight unwritten, see `reference.unwritten`
        da, dweight = convolution_bwd(g.float(), a.float(), weight.float(), geometry, mask)
        da = None if da is None else da.to(g.dtype)
    elif mask[1] and zero_padding.overruns(weight, geometry):
        da, dweight = zero_padding.strided_backward(g, a, native.dense(weight), geometry, mask)
    elif not plane and needs_batch_padding(a, weight):
        da, dweight = zero_padding.convolution_backward(
            pad_batch(g), pad_batch(a), native.dense(weight), geometry, mask
        )
        da = None if da is None else native.dense(da[:1])
    else:
        da, dweight = zero_padding.convolution_backward(g, a, native.dense(weight), geometry, mask)
    if plane:
        da = None if da is None else video(da, batch, length)
        dweight = None if dweight is None else dweight.unsqueeze(2)
    return da, None if dweight is None else dweight.to(dtype)


def in_layout(x: Tensor, like: Tensor) -> Tensor:
    """x with the strides of another tensor of its shape; a copy only where its values lie in another order."""
    ours, theirs = x.stride(), like.stride()
    if ours == theirs:
        return x
    if all(size == 1 or ours[axis] == theirs[axis] for axis, size in enumerate(x.shape)):
        return x.as_strided(like.shape, like.stride())
    return torch.empty_like(like).copy_(x)


def has_dead_tap(g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether some tap of the kernel meets only padding."""
    wide, narrow = (g, a) if geometry.transposed else (a, g)
    for i, taps in enumerate(weight.shape[2:]):
        stride, padding, dilation = (v[i] for v in geometry[:3])
        small, large = narrow.shape[2 + i], wide.shape[2 + i]
        if not all(live_places(small, large, k * dilation - padding, stride) for k in range(taps)):
            return True
    return False
