"""Counts the bytes of all CUDA kernels except the convolutions' products, in a training step of the paper.

    python -m tools.inspect.counting_rest            # print the second table of docs/results/cuda_counted.md
    python -m tools.inspect.counting_rest --write    # update the page

Least: every map read or written once. Moved: including partials, packed weights and splits, by the size of the
workspaces. What one kernel writes for the next one counts in both. Reads of parameters are not counted.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from fastinpaint.ops.conv_block.cuda.abi import CConv, describe
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch import native_cuda
from tools.inspect.counting import BYTES, counts, run_table_command
from tools.inspect.paper_layers import PaperLayer, paper_layers

BEGIN, END = "<!-- counted kernels -->", "<!-- end of counted kernels -->"
HALF, FLOAT = 2, 4  # bytes
FRAMES, SIZE, R = 32, 128, 2


class Line(NamedTuple):
    """One kernel: its operations, least bytes and moved bytes."""

    kernel: str
    where: str
    operations: int
    least: int
    moved: int

    def floor(self) -> float:
        """Least seconds on an H200. All of these kernels are bound by memory."""
        return self.least / BYTES


def lines() -> Iterator[Line]:
    """Every kernel that is not a convolution's product, in bfloat16."""
    yield from elementwise()
    yield from norms()
    yield from weights()


def elementwise() -> Iterator[Line]:
    """Elementwise kernels on the widest map of a step, and a bias' sums on the output's gradient."""
    shape = max((s.x.shape for s in _sources()), key=lambda shape: shape.numel())
    where, channels = f"{'x'.join(map(str, shape))} (N, C, H, W), the widest", shape[1]
    count, extra = shape.numel(), _channel_workspace(shape.numel() // channels, channels)
    one, vectors = HALF * count, 3 * channels * FLOAT
    yield Line("activation_fwd_kernel", where, 4 * count, 2 * one, 2 * one)
    yield Line("activation_bwd_kernel", where, 8 * count, 3 * one, 3 * one + extra)
    yield Line("finish_sums_kernel", "its sums", extra // FLOAT, vectors, extra + vectors)
    yield Line("batch_stats_kernel", where, 5 * count, one, one + extra)
    yield Line("finish_moments_kernel", "its moments", 2 * extra // FLOAT, vectors, extra + vectors)
    out = FRAMES * 3 * SIZE**2
    yield Line(
        "channel_sum_kernel", "gradient of the output", out, HALF * out, HALF * out + _channel_workspace(out // 3, 3)
    )


def norms() -> Iterator[Line]:
    """Batch norm's vectors of all layers together. Every value is computed once."""
    channels = [layer.out_channels for layer in paper_layers(FRAMES, SIZE, R) if layer.stats]
    where, total = f"all {len(channels)} layers", sum(channels)
    forward, backward = 8 * total * FLOAT, 5 * total * FLOAT  # mean, var, parameters, running; dscale and var
    yield Line("batch_norm_fwd_kernel", where, 12 * total, forward + 2 * total * FLOAT, forward + 2 * total * FLOAT)
    yield Line("batch_norm_bwd_kernel", where, 8 * total, backward, backward)


def weights() -> Iterator[Line]:
    """Packing before every forward and dgrad, and the sums of wgrad's splits, of all layers together."""
    library = native_cuda.library()
    read, read_wide, packed, splits, values, needed, staged = 0, 0, 0, 0, 0, 0, 0
    for layer in paper_layers(FRAMES, SIZE, R):
        for plain, wide in zip(counts(layer), counts(layer, hopper=1), strict=True):
            if wide.staged:
                activated = _activated(layer, bool(wide.given))[wide.name]
                staged += wide.staged
                values += sum(n for n, _ in activated)
                needed += sum(moved for _, moved in activated)
            if plain.name == "wgrad":
                splits += library.fi_conv_wgrad_workspace(ctypes.byref(_bare(layer)))
                continue
            weight, backward = HALF * torch.Size(layer.weight_shape()).numel(), int(plain.name == "dgrad")
            read += weight
            packed += library.fi_conv_workspace(ctypes.byref(_bare(layer)), backward)
            read_wide += weight if wide.staged else 0
    whole = HALF * sum(torch.Size(layer.weight_shape()).numel() for layer in paper_layers(FRAMES, SIZE, R))
    yield Line("pack_kernel", "all weights, forward and dgrad", 0, 2 * read, read + packed)
    yield Line("pack_hopper_kernel", "those of the wgmma path", 0, 2 * read_wide, 2 * read_wide)  # nothing is padded
    yield Line("hopper_strip_kernel", "operands of the wgmma path, all passes", 4 * values, needed, staged)
    yield Line("reduce_kernel", "all weights' gradients", splits // FLOAT, whole, whole + splits)


def _activated(layer: PaperLayer, given: bool) -> dict[str, list[tuple[int, int]]]:
    """The values, and bytes read and written once, of the operands that each pass activates.

    given: whether dgrad's are wgrad's too.
    """
    sources, weight, _ = layer.inputs(torch.bfloat16, "meta")
    y = math.prod(output_shape(sources[0].x.shape, weight.shape, layer.geometry))
    maps = [(s.x.numel(), s.x.numel() * HALF * (3 if s.addend is not None else 2)) for s in sources]
    gradient = [(y, y * HALF * (3 if layer.stats else 2))]
    return {"forward": maps, "dgrad": gradient, "wgrad": maps if given else maps + gradient}


def table() -> str:
    """A Markdown table."""
    head = ("kernel", "of what", "Mop", "least MB", "moved MB", "floor µs")
    rows = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for line in lines():
        figures = (line.operations / 1e6, line.least / 1e6, line.moved / 1e6, line.floor() * 1e6)
        rows.append(f"| `{line.kernel}` | {line.where} | {' | '.join(f'{figure:.1f}' for figure in figures)} |")
    return "\n".join(rows)


def _sources() -> Iterator:
    for layer in paper_layers(FRAMES, SIZE, R):
        if len(layer.size) == 2:
            yield from layer.inputs(torch.bfloat16, "meta")[0]


def _channel_workspace(rows: int, channels: int) -> int:
    return native_cuda.library().fi_channel_workspace(ctypes.c_int64(rows), channels)


def _bare(layer: PaperLayer) -> CConv:
    """The layer's call without statistics. Its workspace is its packed weights (wgrad: its splits)."""
    sources, weight, _ = layer.inputs(torch.bfloat16, "meta")
    first = sources[0].x
    out = output_shape(first.shape, weight.shape, layer.geometry)
    conv = describe(sources, weight, layer.geometry, out)
    conv.hopper = 0
    conv.gradient = native_cuda.CSource(channels=out[1], scale_factor=1, shift_factor=1)
    for i in range(len(sources)):
        conv.source_gradient[i].dx = 16  # requested; nothing is read, so any address works
    return conv


if __name__ == "__main__":
    run_table_command(__doc__, table, BEGIN, END)
