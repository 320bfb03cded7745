"""Table 1 and the guidance convolutions, as the calls of `conv_block` that a training step of the paper makes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.whole_layers import WholeLayer, whole_layers
from fastinpaint.ops.conv_block.zero_padding import absorbed
from fastinpaint.ops.layout import memory_format
from fastinpaint.ops.types import Geometry, Source


class PaperLayer(NamedTuple):
    """One call. Sources are (channels, whether they have deferred batch norm and ReLU, whether they have an addend)."""

    name: str
    sources: tuple[tuple[int, bool, bool], ...]
    out_channels: int
    samples: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    geometry: Geometry
    stats: bool

    @property
    def channels(self) -> int:
        return sum(channels for channels, _, _ in self.sources)

    def weight_shape(self) -> tuple[int, ...]:
        first, second = self.out_channels, self.channels
        return (second, first, *self.kernel) if self.geometry.transposed else (first, second, *self.kernel)

    def inputs(self, dtype: torch.dtype, device: str) -> tuple[list[Source], Tensor, Tensor | None]:
        """Empty channels-last sources, weight and bias; on "meta" they take no memory."""
        form = memory_format(2 + len(self.size))
        sources = []
        for channels, deferred, addend in self.sources:
            x = torch.empty(self.samples, channels, *self.size, dtype=dtype, device=device, memory_format=form)
            mean, scale, shift = (torch.empty(channels, device=device) if deferred else None for _ in range(3))
            sources.append(Source(x, mean, scale, shift, deferred, torch.empty_like(x) if addend else None))
        weight = torch.empty(self.weight_shape(), dtype=dtype, device=device, memory_format=form)
        bias = None if self.stats else torch.empty(self.out_channels, dtype=dtype, device=device)
        return sources, weight, bias


@functools.cache
def paper_layers(frames: int = 32, size: int = 128, r: int = 2) -> tuple[PaperLayer, ...]:
    """Every layer of 3DCN, then of CombCN, then the guidance convolutions, for one video."""
    return tuple(_call(layer) for layer in whole_layers(Workload(frames, size, r=r)))


def _call(layer: WholeLayer) -> PaperLayer:
    case, conv = layer.case, layer.case.conv
    assert not isinstance(conv.padding, str)
    bare = Geometry(conv.stride, conv.padding, conv.dilation, conv.output_padding, conv.transposed)
    zeros = tuple((after - before, 0) for after, before in zip(case.conv_shape[2:], case.shape[2:], strict=True))
    geometry = absorbed(bare, zeros)  # a frame of zeros in front
    assert isinstance(geometry, Geometry)
    sources = [(case.shape[1] - layer.skip, layer.normed, layer.guidance is not None), (layer.skip, True, False)]
    return PaperLayer(
        case.name.lower().replace(" ", "."),
        tuple(sources if layer.skip else sources[:1]),
        case.out_shape[1],
        case.shape[0],
        case.shape[2:],
        conv.kernel_size,
        geometry,
        any(isinstance(part, _BatchNorm) for part in case.module),
    )
