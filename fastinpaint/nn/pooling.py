"""Max and average pooling of deferred activations, which keep nothing of the map that they read.

    result[n, c, o] = max over the window of o of x[n, c, i]
    dx[n, c, i] = sum over the windows o whose maximum is at i of dresult[n, c, o]

    result[n, c, o] = sum over the window of o of x[n, c, i] / d[o]
    dx[n, c, i] = sum over the windows o that contain i of dresult[n, c, o] / d[o]

torch's nodes keep x, of which backward needs the shape alone, and of each maximum a position of 8 bytes. These keep
positions of 2 or 4 bytes, and nothing of an average. The map is then freed, because the norm and activation before it
keep nothing but y.

Of an average over whole maps, as squeeze-and-excitation and classifiers take it, dx is one value a channel: a view that
repeats it. torch writes it out, contiguous, and adds that to a channels-last map's gradient: 12 to 16 times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.nn.deferred import HANDLERS, Deferred, plain
from fastinpaint.ops.dispatch.fast_path import applied, can_bypass_dispatcher

FORWARD = {4: torch.ops.aten.max_pool2d_with_indices, 5: torch.ops.aten.max_pool3d_with_indices}  # by number of axes
BACKWARD = {
    4: torch.ops.aten.max_pool2d_with_indices_backward,
    5: torch.ops.aten.max_pool3d_with_indices_backward,
}
AVERAGE = {4: torch.ops.aten.avg_pool2d, 5: torch.ops.aten.avg_pool3d}
AVERAGE_BACKWARD = {4: torch.ops.aten.avg_pool2d_backward, 5: torch.ops.aten.avg_pool3d_backward}
SHORT, INTEGER = 1 << 16, 1 << 31  # positions below these fit into 2 and 4 bytes, without a sign


class MaxPool(torch.autograd.Function):
    """The node of the graph. Second derivatives are torch's own: backward calls a differentiable operator.

    Args:
        x: ``[N, C, H, W]`` or ``[N, C, T, H, W]``, any floating dtype.
        window: kernel_size, stride, padding, dilation and ceil_mode, as torch's max pooling takes them.

    Returns:
        The maxima, in the layout of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        result, positions = FORWARD[x.dim()](x, *window)
        ctx.save_for_backward(_packed(positions, x.shape[2:].numel()))
        ctx.window, ctx.shape, ctx.strides = window, x.shape, x.stride()
        return result

    @staticmethod
    def backward(ctx: Any, dresult: Tensor) -> tuple[Tensor, None]:
        (packed,) = ctx.saved_tensors
        return BACKWARD[len(ctx.shape)](dresult, _like(ctx, dresult), *ctx.window, _unpacked(packed)), None


class AveragePool(torch.autograd.Function):
    """The node of an average. Args and Returns as `MaxPool`'s.

    window: kernel_size, stride, padding, ceil_mode, count_include_pad and divisor_override, as torch's average pooling
    takes them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.window, ctx.shape, ctx.strides = window, x.shape, x.stride()
        return AVERAGE[x.dim()](x, *window)

    @staticmethod
    def backward(ctx: Any, dresult: Tensor) -> tuple[Tensor, None]:
        return AVERAGE_BACKWARD[len(ctx.shape)](dresult, _like(ctx, dresult), *ctx.window), None


class GlobalAverage(torch.autograd.Function):
    """The node of an average over all of space: ``apply(average, x)`` with a function of torch that computes it."""

    @staticmethod
    def forward(ctx: Any, average: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return average(x)

    @staticmethod
    def backward(ctx: Any, dresult: Tensor) -> tuple[None, Tensor]:
        shape = ctx.shape
        each = dresult.reshape(*shape[:2], *[1] * (len(shape) - 2)) / shape[2:].numel()
        return None, each.expand(shape)


def _like(ctx: Any, dresult: Tensor) -> Tensor:
    """A tensor of the map's shape and layout, whose values nobody reads."""
    return torch.empty_strided(ctx.shape, ctx.strides, dtype=dresult.dtype, device=dresult.device)


def _packed(positions: Tensor, size: int) -> Tensor:
    """The positions, int64 within a map of that size, in as few bytes as they fit into."""
    return positions.to(torch.int16 if size <= SHORT else torch.int32) if size <= INTEGER else positions


def _unpacked(packed: Tensor) -> Tensor:
    """The inverse of `_packed`."""
    positions = packed.to(torch.int64)
    return positions.bitwise_and_(SHORT - 1) if packed.dtype == torch.int16 else positions


def _max_pool(axes: int) -> Callable[..., Any]:
    """The handler of torch's max pooling over maps with that number of axes."""

    def handler(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices or (x := _map_of(input, axes)) is None:
            return NotImplemented
        stride = kernel_size if stride is None else stride
        return applied(MaxPool)(x, (kernel_size, stride, padding, dilation, ceil_mode))

    return handler


def _average_pool(axes: int) -> Callable[..., Any]:
    """The handler of torch's average pooling over maps with that number of axes."""

    def handler(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if (x := _map_of(input, axes)) is None:
            return NotImplemented
        stride = kernel_size if stride is None else stride
        return applied(AveragePool)(x, (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override))

    return handler


def _global_average_pool(axes: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of torch's adaptive average pooling over maps with that number of axes."""

    def handler(input: Any, output_size: Any) -> Any:
        sizes = set(output_size) if isinstance(output_size, Sequence) else {output_size}
        if sizes != {1} or (x := _map_of(input, axes)) is None:
            return NotImplemented
        return applied(GlobalAverage)(partial(function, output_size=output_size), x)

    return handler


def _mean(input: Any, dim: Any = None, keepdim: bool = False, **others: Any) -> Any:
    """The handler of means over all of space."""
    if others or not isinstance(input, Deferred) or not isinstance(dim, Sequence):
        return NotImplemented
    if not all(isinstance(d, int) for d in dim):  # torch takes names of axes too
        return NotImplemented
    axes = input.dim()
    if sorted(d % axes for d in dim) != list(range(2, axes)) or (x := _map_of(input, axes)) is None:
        return NotImplemented
    return applied(GlobalAverage)(partial(torch.mean, dim=tuple(dim), keepdim=keepdim), x)


def _map_of(input: Any, axes: int) -> Tensor | None:
    """The map that an own node pools; None where torch's has to, or keeps nothing either."""
    if not isinstance(input, Deferred) or input.dim() != axes or input.device.type != "cpu":
        return None
    x = plain(input)
    return x if torch.is_grad_enabled() and x.requires_grad and can_bypass_dispatcher(x) else None


HANDLERS.update(
    {
        F.max_pool2d: _max_pool(4),
        torch.max_pool2d: _max_pool(4),
        F.max_pool3d: _max_pool(5),
        torch.max_pool3d: _max_pool(5),
        F.avg_pool2d: _average_pool(4),
        F.avg_pool3d: _average_pool(5),
        F.adaptive_avg_pool2d: _global_average_pool(4, F.adaptive_avg_pool2d),
        F.adaptive_avg_pool3d: _global_average_pool(5, F.adaptive_avg_pool3d),
        torch.mean: _mean,
        Tensor.mean: _mean,
    }
)
