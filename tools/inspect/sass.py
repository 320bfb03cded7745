"""Inspects the compiled CUDA kernels without a GPU: registers, spills, tensor-core and copy instructions.

    python -m tools.inspect.sass            # check, and print the table of docs/results/cuda_compiled.md
    python -m tools.inspect.sass --write    # update the page

cuobjdump comes from the CUDA toolkit or the triton wheel. The table has one row per kernel and architecture.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fastinpaint.errors import UserError
from fastinpaint.ops.dispatch import native
from tools.inspect.page import replace_table
from tools.nvcc import find_nvcc as nvcc

PAGE = Path(__file__).parents[2] / "docs" / "results" / "cuda_compiled.md"
BEGIN, END = "<!-- compiled kernels -->", "<!-- end of compiled kernels -->"
LOAD, STORE = "LDG.E.128", "STG.E.128"  # 16 bytes of global memory
COUNTED = ("HMMA", "HGMMA", "LDSM", "LDGSTS", "UBLKCP", "WARPGROUP.DEPBAR", "STL", "LDL", LOAD, STORE)
LISTED = COUNTED[:5]
TF32 = "HMMA.1688.F32.TF32"  # counted in addition to all HMMA
AHEAD = "LDG.E.128 before the first STG.E.128"
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
FROM_PTX = "sm_100"  # no machine code is built for it: the driver compiles the PTX, and nvcc here
THREADS, BLOCKS_WANTED, REGISTERS = 128, 2, 65536  # per block; per SM; per SM
# Kernels whose products must use tensor cores, with other required instructions.
TENSOR = re.compile(r"^(gather|thin|wgrad)_kernel<(bf16|half)")
# Kernels without 16-byte loads, or stores: they access single values and pairs. hopper_wgrad has copy engines.
NARROW_READS = ("batch_norm_", "finish_sums_", "reduce_groups", "hopper_wgrad")
NARROW_WRITES = ("batch_norm_", "finish_", "reduce_groups", "depthwise_wgrad")
# Kernels whose threads ask for several rows before they write one, and the 16-byte loads of rows and parameters.
READS_AHEAD, LOADS_AHEAD = ("activation_fwd", "activation_bwd"), 14


class Kernel(NamedTuple):
    """One kernel for one architecture."""

    name: str
    architecture: str
    registers: int
    stack: int
    counts: dict[str, int]

    def complaint(self) -> str | None:
        """What is wrong with it, in one sentence, or None."""
        where = f"{self.name} for {self.architecture}"
        if self.counts["STL"] or self.counts["LDL"]:
            return f"{where} spills: {self.counts['STL']} stores, {self.counts['LDL']} loads."
        if self.registers * THREADS * BLOCKS_WANTED > REGISTERS:
            return f"{where} has {self.registers} registers: {BLOCKS_WANTED} blocks do not fit an SM."
        if 0 < self.counts["HGMMA"] <= self.counts["WARPGROUP.DEPBAR"]:
            return f"{where} waits for every wgmma: ptxas has put them one after another."
        if self.name.startswith(READS_AHEAD) and self.counts[AHEAD] < LOADS_AHEAD:
            return f"{where} has {self.counts[AHEAD]} {AHEAD}, and {LOADS_AHEAD} are wanted: a load waits for a store."
        needed: tuple[str, ...] = ("HMMA", "LDSM") if TENSOR.match(self.name) else ()
        needed = (*needed, "LDGSTS") if self.name.startswith(("gather", "thin")) else needed
        if self.name.startswith(("gather_kernel<tf32", "thin_kernel<tf32", "wgrad_kernel<tf32")):
            needed = (*needed, TF32)
        if self.name.startswith(("hopper_gather", "hopper_wgrad")):
            needed = ("HGMMA", "UBLKCP")
        needed = needed if self.name.startswith(NARROW_READS) else (*needed, LOAD)
        needed = needed if self.name.startswith(NARROW_WRITES) else (*needed, STORE)
        missing = [op for op in needed if not self.counts[op]]
        return f"{where} has no {', '.join(missing)}." if missing else None


def cuobjdump() -> str | None:
    """The disassembler, or None."""
    spec = importlib.util.find_spec("triton")
    wheel = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    found = shutil.which("cuobjdump") or (str(wheel) if wheel and wheel.exists() else None)
    compiler = nvcc()
    beside = Path(compiler).resolve().parent / "cuobjdump" if compiler else None
    return found or (str(beside) if beside and beside.exists() else None)


def why_not() -> str | None:
    """Why the kernels cannot be inspected, in one sentence, or None."""
    if not (native.HERE / "libfastinpaint_cuda.so").exists():
        return "the cuda kernels are not built; install nvcc and run `pip install -e .` again."
    return None if cuobjdump() else "there is no cuobjdump; install the CUDA toolkit or triton."


def demangled(symbol: str) -> str:
    """Demangle a kernel's name, for instance to ``gather_kernel<bf16, 64>``."""
    match = re.match(r"_ZN2fi(\d+)", symbol) or re.match(r"_ZN2fiL(\d+)", symbol)
    if match is None:
        return symbol
    start = match.end()
    name, rest = symbol[start : start + int(match[1])], symbol[start + int(match[1]) :]
    if not rest.startswith("I"):
        return name
    dtype = {"6": "half", "1": "bf16", "f": "float", "N": "tf32"}.get(rest[1], rest[1])
    arguments = ", ".join([dtype, *re.findall(r"L[ib](\d+)E", rest)])
    return f"{name}<{arguments}>"


def kernels(library: Path) -> list[Kernel]:
    """Every kernel of the library, for every architecture it was compiled for and for the one compiled from its PTX."""
    tool, compiler = cuobjdump(), nvcc()
    assert tool is not None
    found = read_kernels(tool, library)
    if compiler is not None and all(k.architecture != FROM_PTX for k in found):
        found += compile_ptx(tool, compiler, library)
    return sorted(set_defaults(found), key=lambda k: (k.name, ARCHITECTURES.index(k.architecture)))


def compile_ptx(tool: str, compiler: str, library: Path) -> list[Kernel]:
    """The kernels of the library's PTX, compiled for `FROM_PTX`."""
    dumped = subprocess.run([tool, "-ptx", str(library)], capture_output=True, text=True, check=True).stdout
    units = [text for text in re.split(r"\n(?=Fatbin )", dumped) if ".entry" in text]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder, "unit.ptx"), Path(folder, "unit.cubin")
        for text in units:
            source.write_text(text[text.index("\n.version") :])
            subprocess.run([compiler, f"-arch={FROM_PTX}", "-cubin", source, "-o", compiled], check=True)
            found += read_kernels(tool, compiled, FROM_PTX)
    return found


def read_kernels(tool: str, library: Path, architecture: str = "") -> list[Kernel]:
    """Every kernel of a library, or of a unit compiled for one architecture."""
    usage = subprocess.run([tool, "-res-usage", str(library)], capture_output=True, text=True, check=True).stdout
    resources, of_unit, symbol = {}, architecture, ""
    for line in usage.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" Function (\w+):", line):
            symbol = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            resources[architecture, symbol] = int(match[1]), int(match[2])
    counts = count_instructions([tool, "-sass", str(library)], of_unit)
    return [
        Kernel(demangled(symbol), architecture, *numbers, dict(counts[architecture, symbol]))
        for (architecture, symbol), numbers in resources.items()
    ]


def set_defaults(found: Iterable[Kernel]) -> list[Kernel]:
    """Add zero counts for missing instructions, and keep each kernel once per architecture."""
    unique = {(k.name, k.architecture): k for k in found if k.architecture in ARCHITECTURES}
    return [k._replace(counts={op: k.counts.get(op, 0) for op in (*COUNTED, TF32, AHEAD)}) for k in unique.values()]


def count_instructions(command: list[str], architecture: str = "") -> dict[tuple[str, str], collections.Counter[str]]:
    """The number of occurrences of each counted instruction, by architecture and kernel."""
    counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    instruction = re.compile(rf"\*/\s+(?:@!?U?P\w+\s+)?({'|'.join(map(re.escape, COUNTED))})\b[.\w]*")
    symbol = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := instruction.search(line):
                count = counts[architecture, symbol]
                count[match[1]] += 1
                count[TF32] += match[0].endswith(TF32)
                count[AHEAD] += match[1] == LOAD and not count[STORE]
            elif "Function : " in line:
                symbol = line.split("Function : ")[1].strip()
            elif line.startswith("arch = "):
                architecture = line.removeprefix("arch = ").strip()
    return counts


def table(found: Iterable[Kernel]) -> str:
    """A Markdown table."""
    lines = [
        f"| kernel | architecture | registers | {' | '.join(LISTED)} | spills |",
        f"|{' --- |' * (4 + len(LISTED))}",
    ]
    for k in found:
        cells = (
            k.name,
            k.architecture,
            k.registers,
            *(k.counts[op] for op in LISTED),
            k.counts["STL"] + k.counts["LDL"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    """The command line. Returns 1 if a kernel has a complaint."""
    parser = argparse.ArgumentParser(prog="python -m tools.inspect.sass", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/cuda_compiled.md")
    arguments = parser.parse_args()
    if reason := why_not():
        raise UserError(reason)
    found = kernels(native.HERE / "libfastinpaint_cuda.so")
    complaints = [c for k in found if (c := k.complaint())]
    print(table(found))
    print("\n".join(complaints) or f"{len(found)} kernels, none spills.")
    if arguments.write:
        replace_table(PAGE, BEGIN, END, table(found))
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
