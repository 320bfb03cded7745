"""Table 1 and the guidance convolutions, as the calls of `conv_block` that a training step of the paper makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.models.table import COMBCN, COMBCN_SKIPS, GUIDANCE_PLACES, THREEDCN, THREEDCN_SKIPS, Row
from fastinpaint.ops.layout import memory_format
from fastinpaint.ops.types import Geometry, Source


class PaperLayer(NamedTuple):
    """One call; sources are (channels, whether batch norm and ReLU are deferred in it, whether it has an addend)."""

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
        """Empty sources, weight and bias of the layer's shapes, channels innermost; "meta" takes no memory."""
        form = memory_format(2 + len(self.size))
        sources = []
        for channels, deferred, addend in self.sources:
            x = torch.empty(self.samples, channels, *self.size, dtype=dtype, device=device, memory_format=form)
            mean, scale, shift = (torch.empty(channels, device=device) if deferred else None for _ in range(3))
            sources.append(Source(x, mean, scale, shift, deferred, torch.empty_like(x) if addend else None))
        weight = torch.empty(self.weight_shape(), dtype=dtype, device=device, memory_format=form)
        bias = None if self.stats else torch.empty(self.out_channels, dtype=dtype, device=device)
        return sources, weight, bias


def paper_layers(frames: int = 32, size: int = 128, r: int = 2) -> Iterator[PaperLayer]:
    """Every layer of 3DCN, then of CombCN, then the guidance convolutions, for one video."""
    yield from _network("3dcn", THREEDCN, THREEDCN_SKIPS, (), frames, size // r, time=True)
    first, after_last = GUIDANCE_PLACES[r]
    yield from _network("combcn", COMBCN, COMBCN_SKIPS, (first + 1, after_last), frames, size, time=False)
    for place in (first, after_last - 1):
        channels, side = COMBCN[place - 1].channels, size // r
        geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0))
        yield PaperLayer(
            f"guidance.{place}", ((3, False, False),), channels, frames, (side, side), (3, 3), geometry, False
        )


def _network(
    name: str, rows: Sequence[Row], skips: dict[int, int], guided: tuple[int, ...], frames: int, side: int, time: bool
) -> Iterator[PaperLayer]:
    """The layers of one table; ``guided`` are those whose first source has the guidance added."""
    out = {0: 4, **{row.number: row.channels for row in rows}}
    for row in rows:
        up = row.type == "deconv"
        sources = [(out[row.number - 1], row.number > 1, row.number in guided)]
        if row.number in skips:
            sources.append((out[skips[row.number]], True, False))
        reach = 1 if up else row.dilation * (row.kernel // 2)
        spatial = ((row.stride,) * 2, (reach,) * 2, (row.dilation,) * 2, (0, 0))
        in_time = (1, 1, 1, -1) if up else (1, row.kernel // 2, 1, 0)  # a frame of zeros in front, which nobody writes
        stride, padding, dilation, extra = ((t, *s) if time else s for t, s in zip(in_time, spatial, strict=True))
        size = (frames, side, side) if time else (side, side)
        yield PaperLayer(
            f"{name}.{row.number}",
            tuple(sources),
            row.channels,
            1 if time else frames,
            size,
            (row.kernel,) * len(size),
            Geometry(stride, padding, dilation, extra, up),
            row.number != len(rows),
        )
        side = side * row.stride if up else side // row.stride
