"""Counts (does not measure) the elementwise passes of a layer and the bytes of a training step, by backend.

    python -m tools.inspect.step_bytes             prints both tables
    python -m tools.inspect.step_bytes --write     updates docs/results/gpu_step_bytes.md

Only whole maps are counted, not vectors and weights. The step is the paper's: 32 frames of 128 x 128, r = 2, bfloat16.
"eager" is torch's convolution, batch norm, ReLU, addition and concatenation as separate kernels, in channels-last under
autocast. "library" is cuDNN's convolutions with fused elementwise kernels around them. "cuda" and "triton" are this
library's convolutions, which read raw maps, with the least bytes possible for them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fastinpaint.ops.conv_block.geometry import output_shape
from tools.inspect.page import replace_table
from tools.inspect.paper_layers import PaperLayer, paper_layers

PAGE = Path(__file__).parents[2] / "docs/results/gpu_step_bytes.md"
BEGIN, END = "<!-- step bytes: begin -->", "<!-- step bytes: end -->"
HALF = 2
BANDWIDTH = 4.3e12  # bytes per second of a copy on an H200
BACKENDS = ("eager", "library", "cuda, triton")


class Pattern(NamedTuple):
    """The structure of a layer.

    Attributes:
        sources: number of concatenated maps. deferred: whether their norm and ReLU are deferred. addend: whether one
            map is added.
        stats: whether batch norm follows. wanted: whether the sources need gradients.
    """

    sources: int
    deferred: bool
    addend: bool
    stats: bool
    wanted: bool = True


class Maps(NamedTuple):
    """Number of maps read and written, of the concatenated sources' and of the output's size, and of kernels."""

    source: int
    output: int
    kernels: int

    def __add__(self, other: Maps) -> Maps:  # type: ignore[override]
        return Maps(*(a + b for a, b in zip(self, other, strict=True)))


def elementwise(backend: str, p: Pattern) -> Maps:
    """Passes around the three convolutions of a training step. A map is counted each time it is moved."""
    if backend == "library":
        made = p.deferred or p.addend or p.sources > 1
        # the activation in forward and again in backward; statistics; G; the sources' gradients
        activation = Maps(2 + p.addend, 0, p.sources) if made else Maps(0, 0, 0)
        back = Maps(2 * p.deferred + 1, 0, p.sources) if made and p.wanted else Maps(0, 0, 0)
        stats = Maps(0, 1, 1) + Maps(0, 3, 1) if p.stats else Maps(0, 0, 0)
        return activation + activation + stats + back
    if backend == "eager":
        norm = Maps(0, 3 + 5, 4) if p.stats else Maps(0, 0, 0)  # statistics, y; their gradients, dx
        relu = Maps(0, 2 + 3, 2) if p.stats else Maps(0, 0, 0)
        join = Maps(2 + 2 * p.wanted, 0, 1 + p.sources * p.wanted) if p.sources > 1 else Maps(0, 0, 0)
        added = Maps(3, 0, 1) if p.addend else Maps(0, 0, 0)
        return norm + relu + join + added
    return Maps(0, 0, 0)


def convolutions(backend: str, p: Pattern) -> Maps:
    """Maps that forward, dgrad and wgrad read and write."""
    if backend in ("eager", "library"):
        return Maps(2, 2, 2) + (Maps(1, 1, 1) if p.wanted else Maps(0, 0, 0))
    gradient = 1 + p.stats  # G is computed from dy and y
    source = 1 + p.addend
    forward, wgrad = Maps(source, 1, 1), Maps(source, gradient, 1)
    return forward + wgrad + (Maps(2 + p.addend, gradient, 1) if p.wanted else Maps(0, 0, 0))


def pattern_of(layer: PaperLayer) -> Pattern:
    """The structure of a layer of the paper."""
    _, deferred, _ = layer.sources[0]
    addend = any(addend for _, _, addend in layer.sources)
    return Pattern(len(layer.sources), deferred, addend, layer.stats, wanted=layer.channels > 4)


def moved(layer: PaperLayer, backend: str) -> tuple[int, int]:
    """Bytes of the layer's elementwise passes, and of its convolutions."""
    sources, weight, _ = layer.inputs(torch.bfloat16, "meta")
    first, pattern = sources[0].x, pattern_of(layer)
    shape = output_shape(first.shape, weight.shape, layer.geometry)
    read = HALF * sum(s.x.numel() for s in sources)
    written = HALF * first.shape[0] * shape[1] * first[0, 0].numel() * _volume(shape, first.shape)
    parts = elementwise(backend, pattern), convolutions(backend, pattern)
    around, within = (round(maps.source * read + maps.output * written) for maps in parts)
    return around, within


def _volume(out: tuple[int, ...], inp: tuple[int, ...]) -> float:
    """Output positions per input position."""
    share = 1.0
    for a, b in zip(out[2:], inp[2:], strict=True):
        share *= a / b
    return share


PATTERNS = {
    "3 x 3 on a plain map, batch norm follows": Pattern(1, False, False, True),
    "after batch norm and ReLU, batch norm follows": Pattern(1, True, False, True),
    "two sources, concatenated": Pattern(2, True, False, True),
    "with an addend": Pattern(1, True, True, True),
    "the last layer": Pattern(1, True, False, False),
}


def passes() -> str:
    """A table of kernels per training step, elementwise and convolutions, by pattern."""
    lines = [f"| layer | {' | '.join(BACKENDS)} |", f"| --- |{' ---: |' * len(BACKENDS)}"]
    for name, pattern in PATTERNS.items():
        cells = (f"{elementwise(b, pattern).kernels} + {convolutions(b, pattern).kernels}" for b in BACKENDS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def step() -> str:
    """A table of bytes per step by network and backend."""
    lines = ["| network | backend | elementwise MB | convolutions MB | all MB | at 4.3 TB/s, ms |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for network, layers in _networks():
        for backend in BACKENDS:
            around, within = (sum(n) for n in zip(*(moved(layer, backend) for layer in layers), strict=True))
            total = around + within
            lines.append(
                f"| {network} | {backend} | {around / 1e6:.0f} | {within / 1e6:.0f} | {total / 1e6:.0f} | "
                f"{1e3 * total / BANDWIDTH:.2f} |"
            )
    return "\n".join(lines)


def _networks() -> Iterator[tuple[str, list[PaperLayer]]]:
    every = list(paper_layers())
    yield "3DCN", [layer for layer in every if layer.name.startswith("3dcn")]
    yield "CombCN", [layer for layer in every if not layer.name.startswith("3dcn")]
    yield "both", every


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results/gpu_step_bytes.md")
    text = f"{passes()}\n\n{step()}"
    if parser.parse_args(argv).write:
        replace_table(PAGE, BEGIN, END, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
