"""Compiles the Triton kernels without a GPU and reports registers, spills, shared memory and instructions.

    python -m tools.inspect.aot [--targets sm_90] [--layers 3dcn.6,combcn.8]    prints the table
    python -m tools.inspect.aot --write        compiles every layer for every target and updates PAGE

--write takes about a quarter of an hour of processor time at low priority. It can be interrupted: finished jobs are
kept in build/triton_compiled.json and reused while the sources are unchanged.

A launch on "meta" tensors runs the library's own host code with a driver that has a target but no device. The compiler
then produces the same code as for a real launch. Nothing runs, so speed, occupancy and results are not shown. Several
processes compile layers in parallel. Layers that share a kernel share a row.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastinpaint.files import replace_text
from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.batch_norm import triton as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Running
from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.triton.ahead import TargetDriver
from fastinpaint.ops.conv_block.triton.two_stages import REST
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.source_hash import source_hash
from fastinpaint.ops.types import Source
from tools.inspect.page import replace_table
from tools.inspect.paper_layers import PaperLayer, paper_layers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "triton_compiled.md"
KEPT = ROOT / "build" / "triton_compiled.json"
OPS = ("activation", "batch_norm", "conv_block")  # the ops with Triton kernels
NICE = 5  # low priority
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
COPY_ENGINES = ("sm_90", "sm_100")
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
# The tensor-core instructions that a matrix product must use.
MATRIX_OPS = {"sm_80": ("HMMA",), "sm_90": ("HGMMA", "HMMA"), "sm_100": ("UTCHMMA", "HMMA"), "gfx942": ("v_mfma",)}
BEGIN, END = "<!-- compiled: begin -->", "<!-- compiled: end -->"
COUNTED = re.compile(r"HGMMA|HMMA|UTCHMMA|LDGSTS|LDSM|LDL|STL")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]+)([^;]*);", re.M)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Compiled(NamedTuple):
    """The compiled kernel of one launch.

    Attributes:
        registers: per thread. spilled: bytes of stack or spilled registers. shared: bytes per program.
        ops: counts of the relevant instructions. a_in_registers: whether wgmma's left operand is in registers.
        seconds: processor time of the compilation, near 0 if cached.
        key: equal for launches that run the same machine code.
    """

    kernel: str
    target: str
    num_warps: int
    num_stages: int
    block: str
    registers: int
    spilled: int
    shared: int
    ops: dict[str, int]
    a_in_registers: bool
    seconds: float
    key: str

    def complaint(self) -> str | None:
        """What is wrong with it, in one sentence, or None."""
        if self.spilled:
            return f"{self.kernel} {self.block} on {self.target} spills {self.spilled} bytes."
        if self.shared > SHARED_LIMIT[self.target]:
            return f"{self.kernel} {self.block} on {self.target} needs {self.shared} bytes of shared memory."
        return None


class Driver(TargetDriver):
    """A driver whose device is its target, so that Triton's caches tell targets apart."""

    def get_current_device(self) -> str:  # type: ignore[override]
        return f"{self.target.backend}:{self.target.arch}"


@contextlib.contextmanager
def compiling(target: str) -> Iterator[list[Compiled]]:
    """Inside, every launch is compiled for the target and collected, but not run."""
    found: list[Compiled] = []
    upstream = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        start = processor_seconds()
        kernel = upstream(self, *args, grid=(1,), warmup=True, **options)
        kernel = kernel.result() if hasattr(kernel, "result") else kernel
        name = self.__name__ + (":rest" if options.get("STAGE") == REST else "")
        found.append(_inspect(name, target, kernel, options, processor_seconds() - start))

    before = driver._active
    driver.set_active(Driver(TARGETS[target]))
    JITFunction.run = run
    try:
        copies = mock.patch.object(support, "has_copy_engines", return_value=target in COPY_ENGINES)
        with copies, mock.patch.dict(os.environ, FASTINPAINT_TUNE="0"):  # use the model's tiles, not measured ones
            yield found
    finally:
        JITFunction.run = upstream
        driver._active = before


def processor_seconds() -> float:
    """Processor time of this process and its child processes."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _inspect(name: str, target: str, kernel: Any, options: dict[str, Any], seconds: float) -> Compiled:
    meta = kernel.metadata
    block = "x".join(str(options[k]) for k in ("BT", "BH", "BW", "BLOCK_M", "BLOCK_N", "BLOCK_K") if k in options)
    registers, spilled, ops, in_registers = _read(kernel.hash, kernel, target)
    return Compiled(
        name,
        target,
        meta.num_warps,
        meta.num_stages,
        block,
        registers,
        spilled,
        meta.shared,
        ops,
        in_registers,
        seconds,
        kernel.hash,
    )


_seen: dict[str, tuple[int, int, dict[str, int], bool]] = {}


def _read(key: str, kernel: Any, target: str) -> tuple[int, int, dict[str, int], bool]:
    """Registers, bytes spilled, instruction counts and wgmma's left operand in registers; read once per kernel."""
    if key not in _seen:
        _seen[key] = (_amd if target.startswith("gfx") else _nvidia)(kernel.asm)
    return _seen[key]


def _nvidia(asm: dict[str, Any]) -> tuple[int, int, dict[str, int], bool]:
    """Registers, bytes of stack, instruction counts and wgmma's left operand in registers, from the cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    instructions = INSTRUCTION.findall(sass)
    ops = collections.Counter(op for op, _ in instructions if COUNTED.fullmatch(op))
    spilled = max(numbers["STACK"], ops["LDL"] + ops["STL"])
    in_registers = any(op == "HGMMA" and re.search(r"R\d+, R\d+, gdesc", rest) for op, rest in instructions)
    return numbers["REG"], spilled, dict(ops), in_registers


def _amd(asm: dict[str, Any]) -> tuple[int, int, dict[str, int], bool]:
    """The same from AMD's assembly. Spilled scalar registers do not count, as they go to vector lanes, not memory."""
    text = asm["amdgcn"]
    numbers = {key: int(value) for key, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text)}
    return (
        numbers["vgpr_count"],
        4 * numbers["vgpr_spill_count"],
        {"v_mfma": len(re.findall(r"^\s*v_mfma", text, re.M))},
        False,
    )


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def compile_layer(layer: PaperLayer, target: str, dtype: torch.dtype = torch.bfloat16) -> list[Compiled]:
    """Every launch of one layer's forward and backward, including the batch norm after it."""
    sources, weight, bias = layer.inputs(dtype, "meta")
    needs = [layer.channels != 4] * len(sources)  # the video needs no gradient
    rest = (sources, weight, layer.geometry, needs, True, bias is not None)
    with compiling(target) as found:
        if layer.stats:
            vector = torch.empty(layer.out_channels, device="meta")
            y, normed = conv_block.fwd_norm(sources, weight, bias, layer.geometry, norm_of(vector))
            conv_block.bwd_norm(torch.empty_like(y), vector, vector, y, normed, vector, *rest)
        else:
            y, *_ = conv_block.fwd(sources, weight, bias, layer.geometry, False)
            conv_block.bwd(torch.empty_like(y), None, None, None, None, *rest)
    return found


def norm_of(vector: torch.Tensor) -> Norm:
    """A batch norm with affine parameters and running statistics."""
    tracked = torch.empty((), dtype=torch.int64, device="meta")
    return Norm(vector, vector, Running(vector, vector, tracked, 0.1), 1e-5)


def compile_elementwise(target: str, dtype: torch.dtype = torch.bfloat16) -> list[Compiled]:
    """Every launch of `activation`, the batch statistics and `batch_norm`, forward and backward."""
    x = torch.empty(32, 64, 128, 128, dtype=dtype, device="meta", memory_format=torch.channels_last)
    mean, scale, shift = (torch.empty(64, device="meta") for _ in range(3))
    with compiling(target) as found:
        sources = [Source(x, mean, scale, shift, True, x)]
        activation.bwd(activation.fwd(sources), sources, [True])
        activation.batch_stats(x)
        norm = norm_of(mean)
        batch_norm.fwd(mean, scale, *norm[:3], 1 << 19, norm.eps)
        batch_norm.bwd(mean, scale, scale, 1e-5, True)
    return found


def compile_one(name: str, target: str, cache: str | None) -> list[Compiled]:
    """The launches of a layer or of "elementwise". This is the job of a worker process."""
    if cache is not None:
        os.environ["TRITON_CACHE_DIR"] = cache
    if name == "elementwise":
        return compile_elementwise(target)
    return compile_layer(next(layer for layer in paper_layers() if layer.name == name), target)


class Row(NamedTuple):
    """One kernel and the layers that run it."""

    layers: list[str]
    compiled: Compiled


class Kept:
    """Finished jobs in a file, so that an interrupted run can be resumed.

    An entry is valid for the sources and the Triton version of `made_from`.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, name: str, target: str) -> list[Compiled] | None:
        entry = self.entries.get(f"{name} {target}")
        return None if entry is None or entry["of"] != made_from() else [Compiled(*c) for c in entry["compiled"]]

    def put(self, name: str, target: str, compiled: list[Compiled]) -> None:
        self.entries[f"{name} {target}"] = {"of": made_from(), "compiled": compiled}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, json.dumps(self.entries))


def compile_all(
    names: Sequence[str],
    targets: Sequence[str],
    cache: str | None = None,
    kept: Path | None = None,
    processes: int | None = None,
) -> list[Row]:
    """Compile every kernel of those layers for every target.

    Args:
        cache: Triton's cache folder; its default if None.
        kept: the file of finished jobs.
        processes: number of worker processes; by default one per core.
    """
    jobs, memory = [(name, target) for target in targets for name in names], Kept(kept)
    found = {job: kernels for job in jobs if (kernels := memory.get(*job)) is not None}
    left = [job for job in jobs if job not in found]
    if left:
        with ProcessPoolExecutor(processes or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            results = pool.map(functools.partial(compile_one, cache=cache), *zip(*left, strict=True))
            for job, kernels in zip(tqdm(left, desc="compile", unit="layer", disable=None), results, strict=True):
                found[job] = kernels
                memory.put(*job, kernels)
    rows: dict[tuple[str, str], Row] = {}
    for name, target in jobs:
        for c in found[name, target]:
            row = rows.setdefault((target, c.key), Row([], c))
            row.layers.extend([name] * (name not in row.layers))
            if c.seconds > row.compiled.seconds:
                rows[target, c.key] = row._replace(compiled=c)
    return list(rows.values())


def markdown(rows: list[Row]) -> str:
    """The table of docs/results/triton_compiled.md."""
    lines = [
        "| layers | kernel | target | block | warps, stages | registers | spilled | shared | matrix instructions | "
        "left operand | s |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for layers, c in rows:
        matrix = ", ".join(f"{c.ops[op]} {op}" for op in MATRIX_OPS[c.target] if c.ops.get(op)) or "-"
        operand = "-" if "HGMMA" not in c.ops else "registers" if c.a_in_registers else "shared memory"
        lines.append(
            f"| {', '.join(layers)} | {c.kernel} | {c.target} | {c.block} | {c.num_warps}, {c.num_stages} | "
            f"{c.registers} | {c.spilled} | {c.shared} | {matrix} | {operand} | {c.seconds:.1f} |"
        )
    return "\n".join(lines)


@functools.cache
def source_digest() -> str:
    """A digest of what determines the compiled code: the ops' kernels, launches and tiles, and the paper's layers."""
    folders = [ROOT / "fastinpaint" / "ops" / op for op in OPS]
    files = [f for folder in folders for kind in ("triton*.py", "triton/*.py") for f in folder.glob(kind)]
    kernels = source_hash(f for f in files if f.name != "autotune.py")
    return hashlib.sha256(f"{kernels} {paper_layers()}".encode()).hexdigest()[:16]


def made_from() -> str:
    """The sources and the Triton version that kernels are compiled with."""
    return f"{source_digest()} Triton {triton.__version__}"


def page_block(rows: list[Row]) -> str:
    """The content between the page's marks."""
    return f"Triton {triton.__version__}, sources {source_digest()}.\n\n{markdown(rows)}"


def main(argv: list[str] | None = None) -> int:
    """Compile the paper's layers, and print the table or write it into PAGE. Returns 1 if a kernel has a complaint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="of these, by default all: %(default)s")
    parser.add_argument("--layers", default="all", help="names of layers, elementwise, or all (default)")
    parser.add_argument("--write", action="store_true", help="all layers and targets, into the page; can be resumed")
    parser.add_argument("--jobs", type=int, help="processes at once, by default one a core")
    args = parser.parse_args(argv)
    every = [*(layer.name for layer in paper_layers()), "elementwise"]
    if args.write:
        os.nice(NICE)
        with tempfile.TemporaryDirectory() as cache:
            rows = compile_all(every, list(TARGETS), cache, KEPT, args.jobs)
        replace_table(PAGE, BEGIN, END, page_block(rows))
    else:
        rows = compile_all(
            every if args.layers == "all" else args.layers.split(","), args.targets.split(","), processes=args.jobs
        )
        print(page_block(rows))
    complaints = [f"{', '.join(layers)}: {c.complaint()}" for layers, c in rows if c.complaint()]
    print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
