"""Small convolutions that reach every path of the kernels: one line each."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import triton_support
from fastinpaint.ops.types import Geometry, Source
from fastinpaint.testing import rule

DEVICE = "cpu" if triton_support.INTERPRETING else "cuda"
source = partial(rule.source, device=DEVICE)


class Case(NamedTuple):
    """One `conv_block` call: channels of each source, with its options, and the geometry."""

    channels: tuple[int, ...]
    out_channels: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    stride_t: int = 1
    stats: bool = True
    bias: bool = False
    samples: int = 2
    options: tuple[dict, ...] = ({}, {"addend": True})
    padding: tuple[int, ...] | None = None
    output_padding: tuple[int, ...] = ()
    groups: int = 1


CASES = {
    "2d": Case((20,), 18, (5, 6), (3, 3)),
    "2d-dilated-dead-taps": Case((16,), 16, (5, 9), (3, 3), dilation=8),
    "2d-strided": Case((20,), 24, (7, 6), (3, 3), stride=2),
    "2d-thin-first-layer": Case((4,), 16, (6, 5), (5, 5), options=({"affine": False, "relu": False},)),
    "2d-thin-last-layer": Case((32,), 3, (4, 5), (3, 3), stats=False, bias=True),
    "2d-guidance": Case((3,), 20, (4, 4), (3, 3), stats=False, bias=True, options=({"affine": False, "relu": False},)),
    "2d-concat": Case((18, 20), 16, (4, 5), (3, 3)),
    "2d-concat-of-thin": Case((4, 20), 16, (4, 5), (3, 3)),
    "2d-transposed": Case((20,), 18, (3, 4), (4, 4), stride=2, transposed=True),
    "2d-transposed-concat": Case((17, 20), 16, (3, 2), (4, 4), stride=2, transposed=True),
    "2d-transposed-dilated": Case(
        (17,), 16, (3, 2), (3, 3), stride=3, dilation=2, transposed=True, output_padding=(1, 1)
    ),
    "3d": Case((20,), 16, (3, 4, 3), (3, 3, 3), samples=1),
    "3d-dilated-dead-taps": Case((16,), 16, (3, 4, 5), (3, 3, 3), dilation=4, samples=1),
    "3d-strided": Case((16,), 16, (3, 6, 5), (3, 3, 3), stride=2, samples=1),
    "3d-strided-in-time": Case((16,), 16, (4, 4, 4), (3, 3, 3), stride=2, stride_t=2, samples=1),
    "3d-transposed": Case((16,), 17, (2, 3, 2), (4, 4, 4), stride=2, transposed=True, samples=1),
    "3d-transposed-frame-left-off": Case(
        (20,), 16, (3, 3, 2), (4, 4, 4), stride=2, transposed=True, samples=1, output_padding=(-1, 0, -3)
    ),
    "3d-thin-first-layer": Case((4,), 16, (3, 4, 4), (5, 5, 5), samples=1, options=({"affine": False, "relu": False},)),
    "3d-spatial-only": Case((16,), 16, (3, 4, 3), (1, 3, 3)),
    "2d-1x1-strided-has-empty-phases": Case((16,), 16, (4, 5), (1, 1), stride=2),
    "2d-large-mean": Case((16,), 16, (5, 4), (3, 3), options=({"mean": 1e3},)),
    "2d-wide-output-in-two-blocks": Case((16,), 300, (2, 3), (1, 1), samples=1),
    "three-sources": Case((5, 6, 7), 16, (3, 4), (3, 3), options=({}, {"addend": True}, {"relu": False})),
    "one-place": Case((16,), 16, (1, 1), (3, 3), samples=1),
    "2d-depthwise": Case((20,), 20, (5, 6), (3, 3), groups=20, options=({"addend": True},)),
    "2d-depthwise-strided": Case((3,), 3, (7, 6), (5, 5), stride=2, bias=True, groups=3),
    "2d-depthwise-dilated": Case((16,), 16, (5, 9), (3, 3), dilation=4, groups=16),
    "2d-depthwise-transposed": Case((17,), 17, (3, 4), (4, 4), stride=2, transposed=True, groups=17),
    "2d-depthwise-concat": Case((5, 12), 17, (4, 5), (3, 3), groups=17),
    "2d-depthwise-wide": Case((70,), 70, (4, 3), (3, 3), groups=70, stats=False),
    "3d-depthwise": Case((6,), 6, (3, 4, 3), (3, 3, 3), groups=6, samples=1),
    "3d-depthwise-spatial-only": Case((6,), 6, (3, 4, 3), (1, 3, 3), groups=6),
    "2d-grouped": Case((32,), 64, (5, 6), (3, 3), groups=2, options=({"addend": True},)),
    "2d-grouped-strided": Case((96,), 48, (5, 4), (3, 3), stride=2, bias=True, groups=3),
    "2d-grouped-transposed": Case((32,), 64, (3, 4), (4, 4), stride=2, transposed=True, groups=2),
    "2d-grouped-concat": Case((16, 16), 32, (4, 5), (3, 3), groups=2),
    "3d-grouped": Case((32,), 32, (3, 4, 3), (3, 3, 3), groups=2, samples=1),
    "depthwise-no-samples": Case((4,), 4, (3, 3), (3, 3), groups=4, samples=0),
    "no-samples": Case((16,), 16, (3, 3), (3, 3), samples=0),
}


def geometry(case: Case) -> Geometry:
    """The geometry whose padding keeps the size, but for strides."""
    time = len(case.size) == 3
    stride = (case.stride_t, case.stride, case.stride) if time else (case.stride,) * 2
    dilation = (1, case.dilation, case.dilation) if time else (case.dilation,) * 2
    padding = case.padding or tuple(d * (k - 1) // 2 for d, k in zip(dilation, case.kernel, strict=True))
    return Geometry(
        stride, padding, dilation, case.output_padding or (0,) * len(case.size), case.transposed, case.groups
    )


class Inputs(NamedTuple):
    """What `conv_block.fwd` takes, and gradients drawn for what it gives."""

    sources: list[Source]
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    stats: bool


def inputs(case: Case, dtype: torch.dtype, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    sources = [
        source((case.samples, c, *case.size), dtype, generator, **options)
        for c, options in zip(case.channels, case.options, strict=False)
    ]
    total = sum(case.channels)
    ends = (total, case.out_channels) if case.transposed else (case.out_channels, total)
    shape = (ends[0], ends[1] // case.groups)
    weight = torch.randn(*shape, *case.kernel, generator=generator) / (total / case.groups * 9) ** 0.5
    bias = torch.randn(case.out_channels, generator=generator).to(DEVICE, dtype) if case.bias else None
    return Inputs(sources, weight.to(DEVICE, dtype), bias, geometry(case), case.stats)
