"""Counts operations, bytes and shared memory of the CUDA convolutions at the paper's size; floors on an H200.

    python -m tools.inspect.counting            # print the table of docs/results/cuda_counted.md
    python -m tools.inspect.counting --write    # update the page

The figures come from the host code that plans a launch, on "meta" tensors. Nothing runs, and no GPU is needed.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fastinpaint.ops.conv_block.cuda.abi import CConv, describe
from fastinpaint.ops.conv_block.geometry import live_taps, output_shape
from fastinpaint.ops.dispatch import native_cuda
from tools.inspect.page import replace_table
from tools.inspect.paper_layers import PaperLayer, paper_layers
from tools.verify import emulated

PAGE = Path(__file__).parents[2] / "docs" / "results" / "cuda_counted.md"
BEGIN, END = "<!-- counted passes -->", "<!-- end of counted passes -->"
FLOPS, BYTES = 788e12, 4.3e12  # per second, measured on one H200: bfloat16 products, and memory


FOOTPRINT = (
    *("blocks", "loads", "shared_bytes", "groups", "columns", "steps", "slices"),
    *("multiplied", "staged", "given", "zeroed"),
)


class Footprint(ctypes.Structure):
    """`fi::Footprint` of csrc/conv_block/cuda/plan/plan.cuh."""

    _fields_ = tuple((name, ctypes.c_int64) for name in FOOTPRINT)


class Count(NamedTuple):
    """One pass of one layer in bfloat16.

    Attributes:
        operations: of live taps; a multiply-add is two. least: bytes if every map is read or written once.
        loads: bytes that the blocks request from global memory (including cache hits and dead taps).
        blocks: in the grid. shared: bytes per block. groups: of 128 threads per block. columns: per tile.
        steps: of the main loop per patch. slices: per patch. multiplied: multiply-adds of all blocks on wgmma, with the
            padding of tiles; 0 elsewhere.
        staged: bytes that writing wgmma's operands moves. given: 1 if dgrad has written one of wgrad's operands.
        zeroed: bytes of zeros that the blocks write into shared memory.
    """

    layer: str
    name: str
    operations: int
    least: int
    loads: int
    blocks: int
    shared: int
    groups: int
    columns: int
    steps: int
    slices: int
    multiplied: int
    staged: int
    given: int
    zeroed: int

    def floor(self) -> float:
        """Least seconds on an H200."""
        return max(self.operations / FLOPS, self.least / BYTES)


def live_operations(layer: PaperLayer, out: tuple[int, ...]) -> int:
    """The exact number of operations of taps that read inside the input."""
    geometry, taps = layer.geometry, 1
    for axis, size in enumerate(layer.size):
        stride, padding, dilation = geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]
        near, far = (size, out[2 + axis]) if geometry.transposed else (out[2 + axis], size)
        taps *= live_taps(near, far, layer.kernel[axis], stride, padding, dilation)
    return 2 * taps * layer.samples * layer.channels * layer.out_channels


def counts(layer: PaperLayer, hopper: int = 0) -> Iterator[Count]:
    """Forward, dgrad (if needed) and wgrad; `hopper` as in `native_cuda.hopper`."""
    sources, weight, _ = layer.inputs(torch.bfloat16, "meta")
    first = sources[0].x
    out = output_shape(first.shape, weight.shape, layer.geometry)
    conv = describe(sources, weight, layer.geometry, out)
    conv.hopper = hopper
    y = torch.empty(out, dtype=torch.bfloat16, device="meta")
    conv.gradient = native_cuda.CSource(channels=out[1], scale_factor=1, shift_factor=1)
    if layer.stats:
        conv.mean = conv.gradient.addend = 16  # requested; nothing is read, so any address works
    for i in range(len(sources)):
        conv.source_gradient[i].dx = conv.source_gradient[i].dscale = 16
    maps = sum(s.x.nbytes * (1 + (s.addend is not None)) for s in sources)
    gradients = y.nbytes * (2 if layer.stats else 1)
    operations = live_operations(layer, out)
    yield _count(layer, "forward", conv, operations, maps + weight.nbytes + y.nbytes)
    if layer.channels != 4:
        yield _count(layer, "dgrad", conv, operations, gradients + weight.nbytes + 2 * maps)
    yield _count(layer, "wgrad", conv, operations, maps + gradients + weight.nbytes)


def _count(layer: PaperLayer, name: str, conv: CConv, operations: int, least: int) -> Count:
    footprint = Footprint()
    if name == "wgrad":
        status = native_cuda.library().fi_conv_wgrad_footprint(ctypes.byref(conv), ctypes.byref(footprint))
    else:
        status = native_cuda.library().fi_conv_footprint(
            ctypes.byref(conv), int(name == "dgrad"), ctypes.byref(footprint)
        )
    if status:
        raise RuntimeError(f"{layer.name} {name}: {native_cuda.STATUS[status]}.")
    f = footprint
    return Count(
        layer.name, name, operations, least, f.loads, f.blocks, f.shared_bytes, f.groups, f.columns, f.steps, f.slices,
        f.multiplied, f.staged, f.given, f.zeroed,
    )  # fmt: skip


def table() -> str:
    """A Markdown table of every layer and pass, with their sum."""
    head = ("layer", "pass", "GFLOP", "least MB", "asked MB", "blocks", "shared KiB", "floor µs")
    lines, total = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"], 0.0
    passes = [pair for layer in paper_layers() for pair in zip(counts(layer), counts(layer, hopper=1), strict=True)]
    for count, wide in passes:
        total += count.floor()
        lines.append(_row(count))
        if wide != count:
            lines.append(_row(wide._replace(name=f"{wide.name}, wgmma")))
    return "\n".join([*lines, f"| all | | | | | | | {total * 1e6:.0f} |"])


def _row(count: Count) -> str:
    blocks = f"{count.blocks} x {count.groups}" if count.groups > 1 else count.blocks
    cells = (
        f"{count.operations / 1e9:.1f}", f"{count.least / 1e6:.1f}", f"{count.loads / 1e6:.0f}", blocks,
        math.ceil(count.shared / 1024), f"{count.floor() * 1e6:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, (count.layer, count.name, *cells)))} |"


def run_table_command(description: str | None, make: Callable[[], str], begin: str, end: str) -> None:
    """The command line for one table of docs/results/cuda_counted.md, between two marks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/cuda_counted.md")
    arguments = parser.parse_args()
    with emulated.installed():
        text = make()
    print(text)
    if arguments.write:
        replace_table(PAGE, begin, end, text)


if __name__ == "__main__":
    run_table_command(__doc__, table, BEGIN, END)
