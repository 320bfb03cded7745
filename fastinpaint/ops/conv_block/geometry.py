"""Sizes and counts that follow from a convolution's geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastinpaint.ops.types import Geometry


def output_shape(shape: Sequence[int], weight: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """The shape of y, by the formulas of ``torch.nn.ConvNd`` and ``torch.nn.ConvTransposeNd``.

    Args:
        shape: of the activation, ``[N, C, *space]``.
        weight: of the weight, as in `conv_block`.
    """
    space = []
    for axis, size in enumerate(shape[2:]):
        stride, padding, dilation = geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]
        reach = dilation * (weight[2 + axis] - 1)
        if geometry.transposed:
            space.append((size - 1) * stride - 2 * padding + reach + geometry.output_padding[axis] + 1)
        else:
            space.append((size + 2 * padding - reach - 1) // stride + 1)
    return (shape[0], weight[1] * geometry.groups if geometry.transposed else weight[0], *space)


def macs_per_value(weight: Sequence[int], geometry: Geometry) -> float:
    """Multiply-adds that one value of y costs; weight: its shape."""
    if geometry.transposed:
        return weight[0] // geometry.groups * math.prod(weight[2:]) / math.prod(geometry.stride)
    return float(math.prod(weight[1:]))


def cost_per_value(weight: Sequence[int], geometry: Geometry) -> float:
    """`macs_per_value` as time shows them: Winograd's F(2x2, 3x3) takes 16 multiply-adds in place of 36."""
    by_winograd = tuple(weight[-2:]) == (3, 3) and set(geometry.stride) == {1} and geometry.groups == 1
    return macs_per_value(weight, geometry) / (2.25 if by_winograd else 1.0)


def live_places(small: int, large: int, offset: int, stride: int) -> int:
    """How many q of ``0 .. small - 1`` have ``0 <= stride * q + offset < large``: where a tap meets no padding."""
    first = max(0, -(offset // stride))
    return max(0, min(small, (large - 1 - offset) // stride + 1) - first)


def live_taps(small: int, large: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """The taps along an axis that meet no padding, summed over all places.

    Args:
        small, large: sizes at the strided and at the dense end: of y and x, or of x and y where it is transposed.
    """
    return sum(live_places(small, large, k * dilation - padding, stride) for k in range(taps))
