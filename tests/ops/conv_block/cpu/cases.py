"""Convolutions for the CPU kernels (every kind, odd sizes, tails, several sources, addends) and the checks on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.norm_act import Act
from fastinpaint.ops.types import Geometry, Source, SourceGrad
from fastinpaint.testing.compare import FACTOR, error_ratio, mismatch

PARAMETERS = {"leaky_relu": 0.01, "elu": 1.3, "softplus": 1.5}


@dataclass(frozen=True)
class Case:
    """A convolution; a source is its channels and some of the letters a (affine), r (relu) and d (addend).

    After a space comes the kind of another activation than ReLU.
    """

    name: str
    sources: tuple[tuple[int, str], ...]
    channels_out: int
    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    output_padding: tuple[int, ...] | None = None
    batch: int = 2
    groups: int = 1

    @property
    def geometry(self) -> Geometry:
        extra = self.output_padding or (0,) * len(self.space)
        return Geometry(self.stride, self.padding, self.dilation, extra, self.transposed, self.groups)


CONVOLUTIONS = (
    Case("plain", ((32, ""),), 32, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("deep", ((256, "ar"),), 64, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("deeper_than_a_product", ((272, "ar"),), 16, (9, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("wide", ((16, "ar"),), 272, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("three_sources", ((32, "ar"), (16, "ad"), (48, "rd")), 48, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("many_tiles", ((16, "ar"),), 16, (37, 41), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("dilated", ((32, "ar"),), 32, (11, 13), (3, 3), (1, 1), (4, 3), (4, 3)),
    Case("dead_taps", ((32, "ar"),), 32, (8, 8), (3, 3), (1, 1), (4, 4), (4, 4)),
    Case("alone", ((32, "ar"), (16, "d")), 48, (7, 5), (3, 3), (1, 1), (4, 3), (4, 3)),
    Case("alone_along_one_axis", ((32, "ar"),), 32, (8, 9), (3, 3), (1, 1), (4, 2), (4, 2)),
    Case("alone_in_time", ((32, "ar"),), 32, (4, 8, 6), (3, 3, 3), (1, 1, 1), (1, 4, 3), (1, 4, 3)),
    Case("up", ((32, "ar"), (16, "ard")), 32, (5, 6), (4, 4), (2, 2), (1, 1), (1, 1), True),
    Case("up_three_taps", ((32, "ar"),), 32, (5, 7), (3, 3), (2, 2), (1, 1), (1, 1), True, (1, 0)),
    Case("down", ((32, "ar"),), 48, (11, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    Case("down_four_taps", ((32, "ar"),), 16, (10, 9), (4, 4), (2, 2), (1, 1), (1, 1)),
    Case("video", ((32, "ar"), (16, "ard")), 32, (5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 2, 2), (1, 2, 2)),
    Case("video_dilated_in_time", ((32, "ar"),), 32, (2, 6, 7), (3, 3, 3), (1, 1, 1), (2, 1, 1), (2, 1, 1)),
    Case("video_up", ((32, "ar"),), 32, (4, 4, 5), (4, 4, 4), (1, 2, 2), (2, 1, 1), (1, 1, 1), True),
    Case("frame_left_off", ((32, "ar"),), 32, (4, 4, 5), (4, 4, 4), (1, 2, 2), (1, 1, 1), (1, 1, 1), True, (-1, 0, 0)),
    Case("rows_left_off", ((32, "ar"),), 32, (4, 4, 5), (4, 4, 4), (1, 2, 2), (1, 1, 1), (1, 1, 1), True, (-2, -1, -3)),
    Case("video_down", ((32, "ar"),), 32, (3, 8, 8), (3, 3, 3), (1, 2, 2), (1, 1, 1), (1, 1, 1)),
    Case("frames", ((32, "ar"),), 32, (3, 6, 6), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    Case("one_pixel", ((16, "ar"),), 32, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), batch=8),
)

# Enough pixels for the larger tiles of the weight gradient, with tiles that leave the map.
MANY_PIXELS = (
    Case("many_pixels", ((16, "ar"), (32, "ad")), 48, (65, 67), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("many_pixels_dilated", ((48, "rd"),), 48, (66, 66), (3, 3), (1, 1), (2, 3), (2, 3)),
    Case("many_pixels_in_time", ((48, "ar"),), 48, (8, 32, 18), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
)

# Enough tiles and channels for the larger ones forward and in the data gradient.
MANY_TILES = (
    Case("many_large_tiles", ((64, "ar"), (32, "ad")), 64, (34, 27), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("many_large_tiles_dilated", ((64, "rd"),), 112, (35, 38), (3, 3), (1, 1), (2, 2), (2, 2)),
    Case("many_large_tiles_in_time", ((64, "ar"),), 80, (6, 29, 10), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Case("deep_large_tiles", ((272, "ar"),), 272, (33, 34), (3, 3), (1, 1), (1, 1), (1, 1)),
)


class Inputs:
    """A case's tensors and upstream gradients; maps and weights are of `dtype`, vectors of float32.

    As under autocast a bfloat16 weight is a rounded float32 one, with which the exact results are computed. With
    `channels_last` stock torch gets the maps as our kernels do.
    """

    def __init__(
        self, case: Case, level: float = 0.0, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(len(case.name))

        def normal(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator)
            return layout.dense(values) if channels_last and shape[2:] == case.space else values

        self.case, self.geometry = case, case.geometry
        self.sources = []
        for channels, letters in case.sources:
            letters, _, kind = letters.partition(" ")
            x = (normal(case.batch, channels, *case.space) + level).to(dtype)
            vectors = (normal(channels) + level, normal(channels), normal(channels)) if "a" in letters else (None,) * 3
            addend = normal(*x.shape).to(dtype) if "d" in letters else None
            relu = Act(kind, PARAMETERS.get(kind, 0.0)).code if kind else "r" in letters
            self.sources.append(Source(x, *vectors, relu, addend))
        channels = sum(c for c, _ in case.sources)
        ends = (channels, case.channels_out) if case.transposed else (case.channels_out, channels)
        ends = (ends[0], ends[1] // case.groups)
        self.exact_weight = normal(*ends, *case.kernel) / (ends[1] * torch.Size(case.kernel).numel()) ** 0.5
        self.weight = self.exact_weight.to(dtype)
        self.bias = normal(case.channels_out).to(dtype)
        self.exact = reference.fwd(*self.as_double(), self.geometry, True)
        self.y, self.mean = self.exact[0].to(dtype), self.exact[1].float()
        if dtype == torch.bfloat16:  # statistics are those of the rounded map
            self.mean = self.y.double().mean((0, *range(2, self.y.dim()))).float()
        count = self.y.numel() // self.y.shape[1]
        self.dy = normal(*self.y.shape).to(dtype)
        if channels_last:
            self.dy = layout.dense(self.dy)
        self.dmean, self.dvar = (normal(case.channels_out) * count**0.5 for _ in range(2))

    def as_double(self) -> tuple[list[Source], Tensor, Tensor]:
        sources = [Source(*(t.double() if isinstance(t, Tensor) else t for t in s)) for s in self.sources]
        return sources, self.exact_weight.double(), self.bias.double()

    def fwd(self, module, double: bool = False):
        """y, mean and var by a backend."""
        parts = self.as_double() if double else (self.sources, self.weight, self.bias)
        return module.fwd(*parts, self.geometry, True)

    def bwd(self, module, double: bool = False):
        """Every gradient by a backend, by name."""
        upstream: Sequence[Tensor] = (self.dy, self.dmean, self.dvar, self.y, self.mean)
        sources, weight, _ = self.as_double() if double else (self.sources, self.weight, self.bias)
        upstream = [t.double() for t in upstream] if double else upstream
        grads, dweight, dbias = module.bwd(*upstream, sources, weight, self.geometry, [True] * len(sources), True, True)
        return {"dweight": dweight, "dbias": dbias, **named(grads)}


def named(grads: Sequence[SourceGrad]) -> dict[str, Tensor]:
    """The gradients of sources, without those that are None."""
    return {f"d{n}[{i}]": t for i, g in enumerate(grads) for n, t in zip(g._fields, g, strict=True) if t is not None}


def judge(name: str, value: Tensor, stock: Tensor, exact: Tensor, factor: float = FACTOR) -> None:
    """The accuracy rule: at most twice stock torch's error, with one rounding of the result allowed."""
    assert mismatch(value, stock) is None, f"{name}: {mismatch(value, stock)}"
    times = error_ratio(value, stock, exact, value.dtype)
    assert times <= factor, f"{name}: {times:.2f} times the error of stock torch"


def check_all(inputs: Inputs, factors: Mapping[str, float] | None = None) -> None:
    """Judge every result and gradient; ``factors`` replace the rule's 2 by name, without the source's index."""
    factors = factors or {}
    for name, value, stock, exact in zip(
        ("y", "mean", "var"), inputs.fwd(cpu), inputs.fwd(reference), inputs.exact, strict=True
    ):
        judge(name, value, stock, exact, factors.get(name, FACTOR))
    ours, stock, exact = inputs.bwd(cpu), inputs.bwd(reference), inputs.bwd(reference, double=True)
    assert ours.keys() == stock.keys()
    for name, value in ours.items():
        judge(name, value, stock[name], exact[name], factors.get(name.split("[")[0], FACTOR))


def check_any_number_of_threads(inputs: Inputs) -> None:
    """Results have the same bits for 1, 2 and 3 threads, and when repeated."""
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            results.append([*inputs.fwd(cpu), *inputs.bwd(cpu).values()])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def check_nan(x: Tensor, weight: Tensor, geometry: Geometry) -> None:
    """A NaN in x, and one in the gradient of y, reach exactly the results that depend on it."""
    sources = [Source(x, relu=True)]
    y = cpu.fwd(sources, weight, None, geometry, False)[0]
    assert torch.equal(y.isnan(), reference.fwd(sources, weight, None, geometry, False)[0].isnan())
    sources, g = [Source(torch.randn(x.shape))], torch.randn(y.shape)
    g[0, 1, 2, 3] = torch.nan
    ours, stock = (
        m.bwd(g, None, None, g, None, sources, weight, geometry, [True], True, False) for m in (cpu, reference)
    )
    assert torch.equal(ours[0][0].x.isnan(), stock[0][0].x.isnan())
    assert torch.equal(ours[1].isnan(), stock[1].isnan())


def check_large_mean(channels: int, weight: Tensor, geometry: Geometry) -> None:
    """Statistics stay accurate where the mean is a thousand standard deviations."""
    y, mean, var = cpu.fwd([Source(torch.randn(2, channels, 24, 40) + 1e3)], weight, None, geometry, True)
    exact_var, exact_mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)


def check_needed_alone(inputs: Inputs, field: str) -> None:
    """Only the second source needs a gradient: nothing else is computed, and it does not change."""
    every, needs = inputs.bwd(cpu), [i == 1 for i in range(len(inputs.sources))]
    grads, dweight, dbias = cpu.bwd(
        inputs.dy, inputs.dmean, inputs.dvar, inputs.y, inputs.mean, inputs.sources, inputs.weight,
        inputs.geometry, needs, False, False,
    )  # fmt: skip
    assert (dweight, dbias) == (None, None)
    assert all(t is None for grad, needed in zip(grads, needs, strict=True) if not needed for t in grad)
    assert torch.equal(grads[1].x, every["dx[1]"])
    assert torch.equal(getattr(grads[1], field), every[f"d{field}[1]"])


def check_channels_last_weight(inputs: Inputs) -> None:
    """A channels-last weight gives the same results, and its gradient has its strides."""
    expected, gradient = inputs.fwd(cpu)[0], inputs.bwd(cpu)["dweight"]
    assert gradient.stride() == inputs.weight.stride()
    inputs.weight = inputs.weight.to(memory_format=layout.memory_format(inputs.weight.dim()))
    assert torch.equal(inputs.fwd(cpu)[0], expected)
    again = inputs.bwd(cpu)["dweight"]
    assert again.stride() == inputs.weight.stride()
    assert torch.equal(again, gradient)
