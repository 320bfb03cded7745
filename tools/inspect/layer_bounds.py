"""Upper bounds of the paper's convolutions from their machine code, and the estimated time of a training step.

    python -m tools.inspect.layer_bounds               recompute every row and compare with the table; 1 if one fell
    python -m tools.inspect.layer_bounds --write       write the rows into docs/results/gpu_bounds.{json,md}
    python -m tools.inspect.layer_bounds --estimate    a step's time from the committed rows; compiles nothing

Rows are forward, dgrad and wgrad in bfloat16 of all layers with at least 64 channels on both sides: by the CUDA kernels
for sm_90a (with mma.sync, and with wgmma), sm_80 and sm_89, and by the Triton kernels for sm_90. The plan of a layer,
which gives the loads per iteration, comes from the emulated library. Nothing runs on a GPU. `sass_bound` defines the
bound. A row that fell by more than `TOLERANCE` is only written with --accept.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from fastinpaint.errors import UserError
from fastinpaint.ops.dispatch import native_cuda
from tools.inspect import counting, counting_rest, rates, sass_text
from tools.inspect.page import replace_table
from tools.inspect.paper_layers import PaperLayer, paper_layers
from tools.inspect.sass_bound import (
    NOTHING,
    Copied,
    Cost,
    MainLoop,
    Paths,
    Prefetch,
    find_kernel,
    loop_cost,
    main_loop,
    occupancy,
    tiles,
)
from tools.nvcc import find_nvcc
from tools.verify import emulated

ROOT = Path(__file__).parents[2]
ROWS, PAGE = ROOT / "docs/results/gpu_bounds.json", ROOT / "docs/results/gpu_bounds.md"
BEGIN, END = "<!-- bounds: begin -->", "<!-- bounds: end -->"
TOLERANCE, WIDE = 0.01, 64  # of a bound; channels of the narrower side
FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "--expt-relaxed-constexpr")
SHARED = {"sm_90": 227 << 10, "sm_80": 163 << 10, "sm_89": 99 << 10}  # most bytes per block
THREADS, CHUNK, VECTOR = 128, 32, 8  # of the kernels: csrc/conv_block/cuda/kernels/tile.cuh
PARAMETERS, LAUNCH = 6, 2e-6  # 16-byte loads of eight channels' three; seconds between a graph's kernels, assumed


class Row(NamedTuple):
    """One pass of one layer by one kernel.

    Attributes:
        bound: share of the tensor cores' peak. limit: the unit that is busy longest. busy: cycles per iteration by
            unit.
        blocks: in the grid. together: resident blocks per multiprocessor. microseconds: on the chip's board.
    """

    layer: str
    name: str
    path: str
    arch: str
    kernel: str
    bound: float
    limit: str
    tensor: float
    busy: dict[str, float]
    registers: int
    spills: int
    shared: int
    blocks: int
    together: int
    microseconds: float

    @property
    def key(self) -> str:
        return f"{self.layer} {self.name} {self.path} {self.arch}"


def wide_layers() -> list[PaperLayer]:
    """The layers of the table."""
    return [layer for layer in paper_layers() if min(layer.channels, layer.out_channels) >= WIDE]


# Only the kernels of wide layers: every dtype and width takes five times as long to compile.
SOURCES = {
    "wide": """#include "common/cuda_launch.cuh"
#include "conv_block/cuda/kernels/gather.cuh"
#include "conv_block/cuda/kernels/wgrad_main.cuh"
void launch(fi::GatherParams p, fi::WgradParams w) {
  fi::gather_kernel<__nv_bfloat16, 64><<<1, 1>>>(p, 0);
  fi::gather_kernel<__nv_bfloat16, 128><<<1, 1>>>(p, 0);
  fi::wgrad_kernel<__nv_bfloat16, 64, false><<<1, 1>>>(w, 0);
}
""",
    "depthwise": """#include "conv_block/cuda/depthwise/fwd_dgrad.cuh"
#include "conv_block/cuda/depthwise/wgrad.cuh"
void launch(fi::GatherParams p, fi::PackParams layout, fi::WgradParams w) {
  fi::depthwise_kernel<__nv_bfloat16><<<1, 1>>>(p, layout, nullptr, 0);
  fi::depthwise_wgrad_kernel<__nv_bfloat16><<<1, 1>>>(w, 0);
}
""",
    "wgmma": """#include "conv_block/cuda/hopper/fwd_dgrad_kernel.cuh"
#include "conv_block/cuda/hopper/wgrad_kernel.cuh"
void launch(fi::GatherParams p, fi::StripGather g, fi::StripWgrad w) {
  fi::hopper_gather_kernel<__nv_bfloat16, 1><<<1, 1>>>(p, g, 0);
  fi::hopper_gather_kernel<__nv_bfloat16, 2><<<1, 1>>>(p, g, 0);
  fi::hopper_wgrad_kernel<__nv_bfloat16, 1><<<1, 1>>>(w, 0);
  fi::hopper_wgrad_kernel<__nv_bfloat16, 2><<<1, 1>>>(w, 0);
  fi::hopper_wgrad_kernel<__nv_bfloat16, 3><<<1, 1>>>(w, 0);
}
""",
}


@functools.cache
def cuda_cubin(source: str, arch: str) -> bytes:
    """One of `SOURCES` compiled by nvcc with the package's flags, cached by the content of its includes."""
    if (compiler := find_nvcc()) is None:
        raise UserError("there is no nvcc; the bounds of the CUDA kernels are read from what it makes.")
    name, made = "sm_90a" if arch == "sm_90" else arch, f"{source}.cu"
    virtual = "compute_90a" if source == "wgmma" else "compute_80"  # as setup.py compiles them
    files = {str(p.relative_to(ROOT / "csrc")): p.read_text() for p in (ROOT / "csrc").rglob("*.cu*")}
    (folder := ROOT / "build" / "bounds").mkdir(parents=True, exist_ok=True)
    ptx = folder / f"{emulated.digest(made, {**files, made: SOURCES[source]}, [*FLAGS, virtual])}.ptx"
    kept = ptx.with_suffix(f".{name}.cubin")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / made).write_text(SOURCES[source])
        for result, given, code in ((ptx, f"{place}/{made}", virtual), (kept, str(ptx), name)):  # one PTX for all chips
            if not result.exists():
                how = ["-ptx" if result == ptx else "-cubin", f"-gencode=arch={virtual},code={code}"]
                how += [f"-I{ROOT / 'csrc'}", given, "-o", f"{place}/code"]
                subprocess.run([compiler, *FLAGS, *how], check=True)
                os.replace(f"{place}/code", result)
    return kept.read_bytes()


class Code(NamedTuple):
    """The main loop, registers and bytes of stack of a kernel."""

    main: MainLoop
    registers: int
    spills: int


def code_of(cubin: bytes, part: str) -> Code:
    """The kernel whose mangled name holds `part`.

    Raises:
        UserError: a disassembler is missing.
    """
    disassembler, dumper = sass_text.tool("nvdisasm"), sass_text.tool("cuobjdump")
    if disassembler is None or dumper is None:
        raise UserError("there is no nvdisasm or cuobjdump; install the CUDA toolkit or triton.")
    name, graph = find_kernel(_text(disassembler, cubin), part)
    return Code(main_loop(graph), *_resources(dumper, cubin)[name])


_text = functools.cache(sass_text.disassemble)
_resources = functools.cache(sass_text.resources)
_cuda_code = functools.cache(lambda source, arch, part: code_of(cuda_cubin(source, arch), part))


def cuda_rows(arch: str, hopper: int = 0) -> Iterator[Row]:
    """The rows of one architecture; with `hopper`, only those on wgmma."""
    chip = rates.CHIPS[arch]
    limited = mock.patch.object(native_cuda, "shared_limit", return_value=SHARED[arch])
    for layer in wide_layers():
        with limited:
            counts = list(counting.counts(layer, hopper))
            plain = list(counting.counts(layer)) if hopper else []
        for count in counts:
            if count not in plain:
                yield wgmma_row(layer, count, arch, chip) if hopper else cuda_row(layer, count, arch, chip)


WGMMA_WARPS = 12  # eight that multiply; four whose registers the plan of an occupancy counts


def wgmma_row(layer: PaperLayer, count: counting.Count, arch: str, chip: rates.Chip) -> Row:
    """One row of the kernels on wgmma.

    The plan counts, over all blocks, the bytes that copy engines bring and the multiply-adds, with padding; the row's
    time is theirs, and that of the kernels that write the operands before.
    """
    kernel = "hopper_wgrad_kernel" if count.name == "wgrad" else "hopper_gather_kernel"
    code = _cuda_code("wgmma", arch, f"{kernel}I13__nv_bfloat16Li{count.slices}E")
    steps = None if count.name == "wgrad" else float(count.steps)
    copied = Copied(count.loads, count.multiplied, count.zeroed)
    found = loop_cost(code.main, WGMMA_WARPS - 4, chip, Paths(steps=steps), copied)
    launches = 2 - count.given if count.name == "wgrad" else 1  # that write strips
    seconds = _seconds(found, 2 * count.multiplied, count.least, count.blocks, chip)
    seconds += count.staged / chip.bandwidth + launches * LAUNCH
    together = occupancy(code.registers, count.shared, WGMMA_WARPS, chip)
    kernel += f"<{count.slices}>"
    return _row(
        layer.name, count.name, "cuda, wgmma", arch, kernel, found, code, count.shared, count.blocks, together, seconds
    )


def cuda_row(layer: PaperLayer, count: counting.Count, arch: str, chip: rates.Chip) -> Row:
    """One row of the kernels on mma.sync. The plan gives what an iteration loads, and how often."""
    addends = any(addend for _, _, addend in layer.sources)
    warps = count.groups * THREADS // 32
    gradient = 4 if layer.stats else 2  # G is computed from dy and y
    if count.name == "wgrad":
        of_q = -(-128 * count.columns // VECTOR // (2 * THREADS)) / count.steps
        source = 4 if addends else 2
        p, q = (gradient, source) if layer.geometry.transposed else (source, gradient)
        once = 1 / count.steps  # the first slice of P and of Q reads its channels' parameters
        prefetches: tuple[Prefetch, ...] = (
            Prefetch(p, once, p > 2, PARAMETERS),
            Prefetch(p, count.slices / count.steps - of_q - once, p > 2),
            Prefetch(q, once, q > 2, PARAMETERS),
            Prefetch(q, of_q - once, q > 2),
        )
        paths = Paths(None, prefetches, count.steps)
        part = f"12wgrad_kernelI13__nv_bfloat16Li{count.columns}ELb0"
    else:
        loads = gradient if count.name == "dgrad" else 4 if addends else 2
        prefetches = (Prefetch(loads, count.slices / count.steps, loads > 2),)
        part = f"13gather_kernelI13__nv_bfloat16Li{count.columns}E"
        copies = CHUNK * count.columns // VECTOR // THREADS
        # parameters are read once for a chunk of channels and all taps of a phase
        inverse = layer.geometry.transposed != (count.name == "dgrad")
        taps = math.prod(layer.kernel) / (math.prod(layer.geometry.stride) if inverse else 1)
        paths = Paths(copies, prefetches, count.steps, (PARAMETERS, 1 / max(taps, count.steps)))
    code = _cuda_code("wide", arch, part)
    found = loop_cost(code.main, warps, chip, paths)
    seconds = _seconds(found, count.operations, count.least, count.blocks, chip)
    together = occupancy(code.registers, count.shared, warps, chip)
    kernel = f"{part.lstrip('0123456789').partition('I13')[0]}<{count.columns}>"
    rest = count.shared, count.blocks, together, seconds
    return _row(layer.name, count.name, "cuda", arch, kernel, found, code, *rest)


def _row(layer: str, name: str, path: str, arch: str, kernel: str, found: Cost, code: Code, *rest: Any) -> Row:
    shared, blocks, together, seconds = rest
    busy = {unit: round(cycles, 1) for unit, cycles in found.busy.items()}
    bound, microseconds = round(found.bound, 3), round(seconds * 1e6, 1)
    return Row(
        layer, name, path, arch, kernel, bound, found.limit, round(found.tensor, 1), busy,
        code.registers, code.spills, shared, blocks, together, microseconds,
    )  # fmt: skip


def _seconds(found: Cost, operations: float, least: float, blocks: int, chip: rates.Chip) -> float:
    """Seconds of a pass at its bound: the busiest multiprocessor or memory decides."""
    full = operations / (chip.flop * chip.multiprocessors * chip.hertz * found.bound)
    rounds = math.ceil(blocks / chip.multiprocessors)
    return max(full * rounds * chip.multiprocessors / blocks, least / chip.bandwidth)


def triton_rows(arch: str = "sm_90") -> Iterator[Row]:
    """The Triton kernels, with the tiles that the launch model chooses without measurements."""
    from tools.inspect import aot, static_model

    chip, kinds = rates.CHIPS[arch], {"fwd": "forward", "boxes": "wgrad"}
    for layer in wide_layers():
        compiled: dict[str, Any] = {}

        def note(name: str, target: str, kernel: Any, *rest: Any, to: dict[str, Any] = compiled) -> None:
            to.setdefault(name, kernel)  # of two launches of a kernel the first multiplies

        with mock.patch.object(aot, "_inspect", note):
            aot.compile_layer(layer, arch)
        for each in static_model.passes(layer):
            name = "box_wgrad_kernel" if each.kind == "boxes" else f"conv_{each.kind}_kernel"
            kernel, warps = compiled[name], compiled[name].metadata.num_warps
            code = code_of(kernel.asm["cubin"], name)
            copied = tiles(*each.tile[:3]) if each.kind == "boxes" else NOTHING
            found = loop_cost(code.main, warps, chip, copied=copied)
            seconds = _seconds(found, each.live, each.bytes - each.before, each.programs, chip)
            seconds += each.before / chip.bandwidth + each.after
            together = occupancy(code.registers, kernel.metadata.shared, warps, chip)
            tile = f"{name.removesuffix('_kernel')}<{each.tile.m}x{each.tile.n}x{each.tile.k}>"
            yield _row(
                layer.name, kinds.get(each.kind, each.kind), "triton", arch, tile, found, code,
                kernel.metadata.shared, each.programs, together, seconds,
            )  # fmt: skip


def every_row(only: str | None = None) -> Iterator[Row]:
    """All rows, or only those of "cuda" or "triton". Compiles what is not cached."""
    if only != "triton":
        with emulated.installed():
            for arch in rates.CHIPS:
                yield from cuda_rows(arch)
            yield from cuda_rows("sm_90", hopper=1)
    if only != "cuda":
        yield from triton_rows()


def committed() -> dict[str, Row]:
    """The rows in docs/results, by key."""
    return {row.key: row for fields in json.loads(ROWS.read_text()) if (row := Row(**fields))} if ROWS.exists() else {}


def fallen(rows: list[Row], before: dict[str, Row]) -> list[str]:
    """The rows that are worse than the committed ones, one sentence each."""
    found = {row.key: row for row in rows}
    gone = [f"{key} is gone." for key in before if key not in found]
    return gone + [
        f"{key} fell from {before[key].bound:.2f} to {row.bound:.2f}, by {row.limit}."
        for key, row in found.items()
        if key in before and row.bound < before[key].bound - TOLERANCE
    ]


def markdown(rows: list[Row]) -> str:
    """The table of docs/results/gpu_bounds.md."""
    units = ("issue", "integer", "float", "multiply", "special", "tensor", "shared", "L2")
    head = (
        "layer",
        "pass",
        "path",
        "chip",
        "kernel",
        "bound",
        "by",
        *units,
        "registers",
        "spills",
        "blocks",
        "at once",
    )
    lines = [f"| {' | '.join((*head, 'µs'))} |", f"|{' --- |' * 5}{' ---: |' * (len(head) - 4)}"]
    for row in rows:
        busy = (f"{row.busy[unit] / row.tensor:.2f}" for unit in units)
        last = (row.registers, row.spills, row.blocks, row.together, row.microseconds)
        cells = (row.layer, row.name, row.path, row.arch, row.kernel, f"{row.bound:.2f}", row.limit, *busy, *last)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def estimate(rows: list[Row]) -> str:
    """The estimated (not measured) time of a training step on an H200, by path."""
    of_chip = [row for row in rows if row.arch == "sm_90"]
    plain = {(row.layer, row.name): row for row in of_chip if row.path == "cuda"}
    wide = plain | {(row.layer, row.name): row for row in of_chip if row.path == "cuda, wgmma"}
    triton = {(row.layer, row.name): row for row in of_chip if row.path == "triton"}
    with emulated.installed():
        narrow = [c for layer in paper_layers() if layer not in wide_layers() for c in counting.counts(layer)]
        rest = [line for line in counting_rest.lines() if line.kernel.startswith(("pack", "reduce", "masked", "down"))]
    thin = sum(3 * count.floor() for count in narrow)  # at a third of their floors, an assumption
    other = sum(line.moved for line in rest) / counting.BYTES
    launches = 2 * len(plain) + 3 * len(narrow)
    lines = ["Estimated from machine code, on an H200, batch 1, F = 32, bfloat16, in a graph; nothing was run."]
    for title, chosen in (("cuda", plain), ("cuda, wgmma", wide), ("triton", triton)):
        if len(chosen) < len(plain):
            continue
        heavy = sum(row.microseconds for row in chosen.values()) * 1e-6
        total = 1e3 * (heavy + thin + other + launches * LAUNCH)
        lines.append(
            f"  {title:12} at least {total:5.1f} ms: convolutions of {WIDE} channels and more {1e3 * heavy:.1f}, "
            f"narrower ones {1e3 * thin:.1f}, other kernels {1e3 * other:.1f}, "
            f"{launches} launches {1e3 * launches * LAUNCH:.1f}"
        )
    lines.append(f"  rows at 0.80 or more on sm_90: {sum(row.bound >= 0.8 for row in of_chip)} of {len(of_chip)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns 1 if a row fell."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.inspect.layer_bounds", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="put the rows into docs/results")
    parser.add_argument("--accept", action="store_true", help="write rows that fell as well")
    parser.add_argument("--only", choices=("cuda", "triton"), help="read and write the rows of these kernels alone")
    parser.add_argument("--estimate", action="store_true", help="print a step's time from the committed rows")
    arguments = parser.parse_args(argv)
    if arguments.estimate:
        print(estimate(list(committed().values())))
        return 0
    before = committed()
    others = [row for row in before.values() if arguments.only and not row.path.startswith(arguments.only)]
    rows = sorted(
        [*every_row(arguments.only), *others], key=lambda row: (row.path.startswith("triton"), row.path, row.arch)
    )
    complaints = fallen(rows, before)
    print("\n".join(complaints) or f"{len(rows)} rows, none fell.")
    if arguments.write and (arguments.accept or not complaints):
        ROWS.parent.mkdir(exist_ok=True)
        ROWS.write_text("[\n" + ",\n".join(json.dumps(row._asdict()) for row in rows) + "\n]\n")
        replace_table(PAGE, BEGIN, END, markdown(rows))
    return 1 if complaints and not arguments.accept else 0


if __name__ == "__main__":
    sys.exit(main())
