"""Zeros around a convolution's input, expressed as geometry, so that they are never written.

With a zeros before an axis and b behind it, a transposed convolution of padding p and output_padding o is one without:

    padding' = p - a * stride      output_padding' = o + (b - a) * stride

where output_padding' may be negative: that many rows are dropped at the end of y. A convolution has padding' = p + a,
which is right for the other end too where b = a.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.ops.types import Geometry

FEW = range(2, 16)  # channels, see `overruns`
Zeros = tuple[tuple[int, int], ...]  # before and behind, one entry a spatial axis


def absorbed(geometry: Geometry, zeros: Zeros) -> Geometry | str:
    """The geometry that equals `geometry` applied to the input with zeros around it, or why there is none."""
    padding, output_padding = [], []
    for axis, (before, behind) in enumerate(zeros):
        p, extra, stride = geometry.padding[axis], geometry.output_padding[axis], geometry.stride[axis]
        if not geometry.transposed:
            if before != behind:
                return f"a convolution pads both ends of an axis alike, and here they have {before} and {behind} zeros."
            padding.append(p + before)
            output_padding.append(extra)
            continue
        padding.append(p - before * stride)
        output_padding.append(extra + (behind - before) * stride)
        if padding[-1] < 0:
            return f"y would begin {-padding[-1]} rows before what the transposed convolution reaches."
        if output_padding[-1] >= max(stride, geometry.dilation[axis]):
            return f"y would end {output_padding[-1]} rows behind what the transposed convolution reaches."
    return geometry._replace(padding=tuple(padding), output_padding=tuple(output_padding))


def convolution(a: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """torch's convolution. It takes no negative output_padding, so those rows are computed and dropped."""
    stride, padding, dilation, extra, transposed, groups = geometry
    if min(extra) >= 0:
        return torch.convolution(a, weight, bias, stride, padding, dilation, transposed, extra, groups)
    torchs = [max(0, n) for n in extra]
    y = torch.convolution(a, weight, bias, stride, padding, dilation, transposed, torchs, groups)
    return longer(y, [min(0, n) for n in extra])


def convolution_backward(
    g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """da and dweight of `convolution`; dropped rows have no gradient. mask: which are needed, and False."""
    stride, padding, dilation, extra, transposed, groups = geometry
    if min(extra) < 0:
        g, extra = longer(g, [max(0, -n) for n in extra]), tuple([max(0, n) for n in extra])
    da, dweight, _ = torch.ops.aten.convolution_backward.default(
        g, a, weight, None, stride, padding, dilation, transposed, extra, groups, mask
    )
    return da, dweight


def strided_backward(
    g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """`convolution_backward` where that `overruns`: dweight without strides, of the rows and columns that are read."""
    da = convolution_backward(g, a, weight, geometry, [True, False, False])[0] if mask[0] else None
    read = a[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    return da, convolution_backward(g, read, weight, geometry._replace(stride=(1, 1)), [False, True, False])[1]


def overruns(weight: Tensor, geometry: Geometry) -> bool:
    """Whether oneDNN may write past a convolution's dweight where maps are channels-last.

    torch 2.13 does, on a processor with AVX2 alone: float32, 1x1 kernels with a stride that read 2 to 7 channels.
    With AVX-512 a vector holds 16 channels, so up to 15 are counted.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or geometry.transposed or geometry.groups > 1:
        return False
    few = weight.dim() == 4 and weight.shape[1] in FEW and weight.shape[2] == weight.shape[3] == 1
    return few and max(geometry.stride) > 1 and max(geometry.padding) == 0


def longer(x: Tensor, rows: Sequence[int]) -> Tensor:
    """A copy of x with that many rows of zeros behind each spatial axis (negative: rows dropped); x itself if 0."""
    return F.pad(x, [end for n in reversed(rows) for end in (0, n)]) if any(rows) else x
