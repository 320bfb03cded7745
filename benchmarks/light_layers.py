"""Depthwise, 1x1, first and other light layers of well-known networks on the CPU, beside torch's.

    python -m benchmarks.light_layers --append docs/results/cpu_light_layers.md

Three comparisons a layer, float32, channels-last for ours:

- the convolution alone, GFLOP/s of forward, data and weight gradient: torch contiguous / channels-last / ours;
- batch norm, ReLU and convolution in training, milliseconds forward and backward: the same three. Ours reads the
  normalised map on the fly and takes the next batch norm's statistics, where torch's takes those of its own;
- ours on own kernels against ours on oneDNN's between own elementwise ones, pass by pass: what `select` chooses from.

The contenders take turns, in another order each time. Figures are medians, ratios medians of the ratios of turns.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.layer_tables import CLOCKS, keep_freed_memory, speedup_over_best
from fastinpaint.bench.measure import time_pairwise
from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import select
from fastinpaint.ops.types import Geometry, Source

TOLERANCE = 1e-4  # of the relative error in norm between two float32 results
LEAST = 5  # turns
SECONDS = 0.1  # all contenders of a comparison together, at least


class Layer(NamedTuple):
    """A convolution of a network: ``space`` is that of its input, padding keeps the size but for the stride."""

    network: str
    batch: int
    channels: int
    channels_out: int
    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        """As the table prints it."""
        by = "x".join
        kind = f"{by(map(str, self.kernel))}{f'/{self.stride}' if self.stride > 1 else ''}"
        depthwise = (
            " depthwise" if self.groups == self.channels else f" {self.groups} groups" if self.groups > 1 else ""
        )
        shape = f"{self.batch}x{by(map(str, self.space))} {self.channels}->{self.channels_out}"
        return f"{self.network}: {shape} {kind}{depthwise}"


def depthwise(network: str, batch: int, channels: int, size: int, kernel: int, stride: int = 1) -> Layer:
    """A depthwise 2D layer."""
    return Layer(network, batch, channels, channels, (size, size), (kernel, kernel), stride, channels)


def pointwise(network: str, batch: int, channels: int, channels_out: int, size: int, stride: int = 1) -> Layer:
    """A 1x1 layer."""
    return Layer(network, batch, channels, channels_out, (size, size), (1, 1), stride)


MOBILE, EFFICIENT, RESNET, DENSE = "MobileNetV2", "EfficientNet-B0", "ResNet-50", "DenseNet-121"
LAYERS = {
    "depthwise": [
        *(
            depthwise(MOBILE, 8, *v)
            for v in ((32, 112, 3), (96, 112, 3, 2), (144, 56, 3), (144, 56, 3, 2), (192, 28, 3))
        ),
        *(depthwise(MOBILE, 8, *v) for v in ((384, 14, 3), (576, 14, 3, 2), (960, 7, 3))),
        *(
            depthwise(EFFICIENT, 4, *v)
            for v in ((144, 56, 5, 2), (240, 28, 5), (672, 14, 5), (672, 14, 5, 2), (1152, 7, 5))
        ),
        *(depthwise("ConvNeXt-T", 4, *v) for v in ((96, 56, 7), (384, 14, 7))),
        Layer("X3D", 2, 54, 54, (8, 56, 56), (3, 3, 3), 1, 54),
        Layer("3D", 2, 64, 64, (8, 28, 28), (3, 1, 1), 1, 64),
        Layer("3D", 2, 64, 64, (8, 28, 28), (1, 3, 3), 1, 64),
    ],
    "1x1": [
        *(pointwise(MOBILE, 8, *v) for v in ((32, 16, 112), (16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 32, 28))),
        *(
            pointwise(MOBILE, 8, *v)
            for v in ((32, 192, 28), (384, 64, 14), (96, 576, 14), (160, 960, 7), (320, 1280, 7))
        ),
        *(pointwise(EFFICIENT, 4, *v) for v in ((240, 40, 28), (80, 480, 14), (1152, 192, 7))),
        *(
            pointwise(RESNET, 4, *v)
            for v in ((64, 256, 56), (256, 64, 56), (256, 512, 56, 2), (512, 128, 28), (128, 512, 28))
        ),
        *(pointwise(RESNET, 4, *v) for v in ((1024, 256, 14), (256, 1024, 14), (2048, 512, 7), (512, 2048, 7))),
        *(pointwise(DENSE, 2, *v) for v in ((256, 128, 56), (512, 128, 28), (896, 128, 14), (1024, 128, 7))),
    ],
    "other": [
        Layer(RESNET, 4, 3, 64, (224, 224), (7, 7), 2),
        Layer(MOBILE, 8, 3, 32, (224, 224), (3, 3), 2),
        *(Layer("HRNet-W18", 4, c, c, (s, s), (3, 3)) for c, s in ((18, 56), (36, 28), (72, 14))),
        *(Layer("3x3", 4, c, c, (s, s), (3, 3)) for c, s in ((12, 56), (24, 56), (40, 28), (120, 14))),
        Layer("3x3", 4, 24, 40, (56, 56), (3, 3), 2),
        Layer("R(2+1)D-18", 2, 64, 144, (8, 56, 56), (1, 3, 3)),
        Layer("R(2+1)D-18", 2, 144, 64, (8, 56, 56), (3, 1, 1)),
        Layer("R(2+1)D-18", 2, 45, 64, (8, 56, 56), (3, 1, 1)),
        Layer("R(2+1)D-18", 2, 64, 230, (8, 56, 56), (1, 3, 3), 2),
        Layer("R(2+1)D-18", 2, 230, 128, (8, 28, 28), (3, 1, 1)),
        Layer("R(2+1)D-18", 2, 460, 256, (4, 14, 14), (3, 1, 1)),
    ],
}


def last(x: Tensor) -> Tensor:
    """x in channels-last."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


class Contenders:
    """The tensors of a layer, and what is timed."""

    def __init__(self, layer: Layer) -> None:
        torch.manual_seed(0)
        axes = len(layer.space)
        padding = tuple(k // 2 for k in layer.kernel)
        stride = tuple(1 if k == 1 and max(layer.kernel) > 1 else layer.stride for k in layer.kernel)
        self.geometry = Geometry(stride, padding, (1,) * axes, (0,) * axes, False, layer.groups)
        self.args = (stride, padding, (1,) * axes, False, (0,) * axes, layer.groups)
        self.x = last(torch.randn(layer.batch, layer.channels, *layer.space))
        self.weight = torch.randn(layer.channels_out, layer.channels // layer.groups, *layer.kernel)
        self.weight /= self.weight[0].numel() ** 0.5
        self.gamma, self.beta = torch.rand(layer.channels) + 0.5, torch.randn(layer.channels)
        var, self.mean = torch.var_mean(self.x, [0, *range(2, axes + 2)], correction=0)
        self.sources = [Source(self.x, self.mean, self.gamma * (var + 1e-5).rsqrt(), self.beta, True)]
        self.y, self.y_mean, _ = cpu.fwd(self.sources, self.weight, None, self.geometry, True)
        assert self.y_mean is not None
        self.dy = last(torch.randn(self.y.shape))
        self.dmean, self.dvar = torch.randn(layer.channels_out), torch.randn(layer.channels_out)
        self.flops = 2 * self.y.numel() * self.weight[0].numel()

    def alone(self) -> list[list[Callable[[], Any]]]:
        """Forward, data and weight gradient of the convolution: contiguous, channels-last, ours."""
        passes: list[list[Callable[[], Any]]] = [[], [], []]
        for layout in (Tensor.contiguous, last):
            a, g = layout(self.x), layout(self.dy)
            passes[0].append(lambda a=a: torch.ops.aten.convolution(a, self.weight, None, *self.args))
            for i in range(2):
                passes[1 + i].append(
                    lambda a=a, g=g, i=i: torch.ops.aten.convolution_backward(
                        g, a, self.weight, None, *self.args, [i == 0, i == 1, False]
                    )[i]
                )
        plain = [Source(self.x)]
        passes[0].append(lambda: cpu.fwd(plain, self.weight, None, self.geometry, False)[0])
        passes[1].append(lambda: self._bwd(plain, False, True, False)[0][0].x)
        passes[2].append(lambda: self._bwd(plain, False, False, True)[1])
        return passes

    def _bwd(self, sources: list[Source], stats: bool, source: bool, weight: bool) -> Any:
        parts = (self.dmean, self.dvar, self.y, self.y_mean) if stats else (None, None, self.dy, None)
        return cpu.bwd(self.dy, *parts, sources, self.weight, self.geometry, [source], weight, False)

    def training(self) -> list[list[Callable[[], Any]]]:
        """Batch norm, ReLU and convolution, forward and backward: contiguous, channels-last, ours."""
        passes: list[list[Callable[[], Any]]] = [[], []]
        for layout in (Tensor.contiguous, last):
            x, g = layout(self.x), layout(self.dy)
            z, mean, rstd = torch.ops.aten.native_batch_norm(x, self.gamma, self.beta, None, None, True, 0.1, 1e-5)
            a = torch.relu(z)

            def fwd(x: Tensor = x) -> Tensor:
                z = torch.relu_(F.batch_norm(x, None, None, self.gamma, self.beta, True))
                return torch.ops.aten.convolution(z, self.weight, None, *self.args)

            def bwd(x: Tensor = x, g: Tensor = g, a: Tensor = a, mean: Tensor = mean, rstd: Tensor = rstd) -> None:
                da = torch.ops.aten.convolution_backward(g, a, self.weight, None, *self.args, [True, True, False])[0]
                dz = torch.ops.aten.threshold_backward(da, a, 0)
                torch.ops.aten.native_batch_norm_backward(
                    dz, x, self.gamma, None, None, mean, rstd, True, 1e-5, [True, True, True]
                )

            passes[0].append(fwd)
            passes[1].append(bwd)
        passes[0].append(lambda: cpu.fwd(self.sources, self.weight, None, self.geometry, True))
        passes[1].append(lambda: self._bwd(self.sources, True, True, True))
        return passes

    def choices(self) -> list[list[Callable[[], Any]]]:
        """The fused forward, data and weight gradient on oneDNN's kernels and on own ones."""

        def by(choice: str, work: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> None:
                os.environ[select.VARIABLE] = choice
                work()
                del os.environ[select.VARIABLE]

            return run

        passes = (
            lambda: cpu.fwd(self.sources, self.weight, None, self.geometry, True),
            lambda: self._bwd(self.sources, True, True, False),
            lambda: self._bwd(self.sources, True, False, True),
        )
        return [[by("onednn", work), by("own", work)] for work in passes]

    def marks(self) -> list[str]:
        """An asterisk for each pass that runs on own kernels."""
        chosen = select.select_kernels(self.sources, self.weight, self.geometry)
        return ["*" if kernels is not None else "" for kernels in chosen]


def row(layer: Layer, clock: str) -> str:
    """One line of the table.

    Raises:
        SystemExit: a result differs from torch's.
    """
    contenders = Contenders(layer)
    marks = contenders.marks()
    alone, training, chosen = [], [], []
    for i, calls in enumerate(contenders.alone()):
        theirs, _, ours = (call() for call in calls)
        error = float((ours - theirs).norm() / theirs.norm())
        if not error < TOLERANCE:
            raise SystemExit(f"{layer.name}: relative error {error:.1e}, nothing is reported.")
        taken = time_pairwise(calls, LEAST, SECONDS, CLOCKS[clock])
        alone.append(" / ".join(f"{contenders.flops / median(t) / 1e9:.0f}" for t in taken) + marks[i])
    for calls in contenders.training():
        for call in calls:
            call()
        taken = time_pairwise(calls, LEAST, SECONDS, CLOCKS[clock])
        training.append(" / ".join(f"{median(t) * 1e3:.2f}" for t in taken))
        training.append(speedup_over_best(taken))
    for calls in contenders.choices():
        for call in calls:
            call()
        chosen.append(speedup_over_best(time_pairwise(calls, LEAST, SECONDS, CLOCKS[clock])))
    return f"| {layer.name} | {' | '.join([*alone, *training])} | {' '.join(chosen)} |"


def table(kind: str, clock: str, only: str) -> list[str]:
    """The lines of one kind's table, printed as they come."""
    lines = [
        f"## {kind.capitalize()}",
        "",
        "| layer | fwd GFLOP/s | dgrad | wgrad | fwd ms | ratio | bwd ms | ratio | own / oneDNN's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for layer in LAYERS[kind]:
        if only in layer.name:
            lines.append(row(layer, clock))
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--append", type=Path, help="a file that the tables are added to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for kind in options.kinds:
        lines = table(kind, options.clock, options.only)
        if options.append:
            with options.append.open("a") as file:
                file.write("\n".join(["", *lines, ""]))


if __name__ == "__main__":
    main()
