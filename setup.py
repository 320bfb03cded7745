"""Builds the kernels of csrc into two plain C libraries beside the Python package, with ninja.

An op's sources are files named cpu*.cpp and cuda*.cu, or folders named cpu and cuda. The C++ becomes
``libfastinpaint_cpu.so`` where a C++ compiler is found (files named ``*simd*`` once for each instruction set, of which
one is chosen at run time), the CUDA becomes ``libfastinpaint_cuda.so`` where nvcc is (folders named hopper for sm_90a
alone). Neither needs torch. What cannot be built is named and left out.

    CXX=...                        the C++ compiler
    FASTINPAINT_CUDA=0|1           never, or by all means, build the CUDA kernels
    FASTINPAINT_CUDA_ARCHS=80;100  the architectures, 80 or higher, instead of 80;90a, and PTX of the lowest
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT))  # pip does not
from tools.nvcc import find_nvcc  # noqa: E402

ARCHITECTURES = "80;90a"  # sm_100 runs the same kernels from the PTX, which the driver compiles once

# The instruction sets of the CPU kernels: the width of a vector in bytes and the compiler's flags.
ISAS = {"scalar": (16, [])}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["scalar"] = (16, ["-Og"])  # without AVX2 `auto` leaves a model as it is, so this one need not be fast
    ISAS["avx2"] = (32, ["-mavx2", "-mfma"])
    ISAS["avx512"] = (64, ["-mavx2", "-mfma", *(f"-mavx512{part}" for part in ("f", "vl", "bw", "dq"))])
KNOWN_ISAS = ["-DFI_HAS_AVX", "-DFI_HAS_BF16"] if len(ISAS) > 1 else []
# Those of the kernels of bfloat16 maps, whose product the baseline computes in float32.
BF16_ISAS = {"scalar": ISAS["scalar"]}
if "avx512" in ISAS:
    BF16_ISAS["avx512bf16"] = (64, [*ISAS["avx512"][1], "-mavx512bf16"])


def find_cxx() -> str | None:
    """The C++ compiler: CXX, g++ or clang++."""
    return next((p for c in (os.environ.get("CXX"), "g++", "clang++") if c and (p := shutil.which(c))), None)


def wanted_nvcc() -> str | None:
    """nvcc, where the CUDA kernels are to be built."""
    asked = os.environ.get("FASTINPAINT_CUDA", "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"FASTINPAINT_CUDA must be 0 or 1, got {asked!r}.")
    nvcc = None if asked == "0" else find_nvcc()
    if asked == "1" and nvcc is None:
        raise SystemExit("FASTINPAINT_CUDA=1, but no nvcc was found in CUDA_HOME, on PATH or in site-packages.")
    return nvcc


def cuda_architectures() -> list[str]:
    """What the CUDA kernels are compiled for."""
    architectures = os.environ.get("FASTINPAINT_CUDA_ARCHS", ARCHITECTURES).split(";")
    for name in architectures:
        if not re.fullmatch(r"(8|9|1\d)\d[af]?", name):
            raise SystemExit(f"FASTINPAINT_CUDA_ARCHS must name architectures from 80 on, as 80;90a, got {name!r}.")
    return architectures


def cuda_code(architectures: list[str]) -> list[str]:
    """Machine code for every architecture, and PTX of the lowest for those to come.

    All machine code is made from that PTX: making PTX takes longer than making machine code of it.
    """
    lowest = min((a.rstrip("af") for a in architectures), key=int)  # PTX of 90a runs on nothing else
    codes = [*(f"sm_{a}" for a in architectures), f"compute_{lowest}"]
    return [f"-gencode=arch=compute_{lowest},code={code}" for code in codes]


def cuda_flags(nvcc: str) -> tuple[list[str], list[str]]:
    """Compile and link flags of the CUDA library."""
    runtime = Path(nvcc).resolve().parent.parent / "lib"
    # -O1 is the host's: device code is compiled with -O3 in any case
    compile_flags = ["-std=c++17", "-Xcompiler=-O1,-fPIC,-fvisibility=hidden", "--expt-relaxed-constexpr"]
    compile_flags.append("-lineinfo")  # compute-sanitizer and profilers name lines
    compile_flags.append("--threads=2")  # two architectures at a time: the longest unit is left alone in the end
    return compile_flags, ["-shared", "-cudart=static", f"-L{runtime}", *cuda_code(cuda_architectures())]


def isa_flags(name: str) -> list[str]:
    """The compiler's flags for a source that is compiled for an instruction set."""
    width, flags = {**ISAS, **BF16_ISAS}[name]
    return [*KNOWN_ISAS, f"-DFI_ISA={name}", f"-DFI_BYTES={width}", *flags]


def cpu_variants(source: Path) -> list[tuple[str, list[str]]]:
    """How one C++ source is compiled: (suffix of the object, extra flags) of each instruction set."""
    if "simd" not in source.stem:
        return [("", KNOWN_ISAS)]
    isas = BF16_ISAS if "simd_bf16" in source.stem else ISAS
    return [(f"_{name}", isa_flags(name)) for name in isas]


def precompiled(cxx: str, build: Path) -> dict[str, Path]:
    """The header of vectors for each instruction set, which g++ parses once: that can take half of a unit's time."""
    if "g++" not in Path(cxx).name or "clang" in Path(cxx).name:
        return {}
    return {name: build / "cpu" / f"cpu_math_{name}.h" for name in {**ISAS, **BF16_ISAS}}


def cuda_variants(source: Path) -> list[tuple[str, list[str]]]:
    """As `cpu_variants`; the wgmma kernels exist for sm_90a alone, and the library does without them elsewhere."""
    architectures = cuda_architectures()
    if source.parent.name != "hopper":
        return [("", cuda_code(architectures))]
    return [("", ["-gencode=arch=compute_90a,code=sm_90a"])] if "90a" in architectures else []


def write_sources_units(build: Path) -> None:
    """For each library a unit with the hash of its sources, by which `native` finds a library that is out of date.

    Also the header that is precompiled.
    """
    write_if_new(build / "cpu_math.h", '#include "common/cpu_math.h"\n')
    place = ROOT / "fastinpaint" / "ops" / "dispatch" / "source_hash.py"
    spec = importlib.util.spec_from_file_location("source_hash", place)  # the package itself needs torch
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in module.SUFFIXES:
        unit, found = build / f"{name}_sources.cpp", module.cxx_hash(ROOT / "csrc", name)
        write_if_new(unit, f'extern "C" __attribute__((visibility("default"))) const char fi_sources[] = "{found}";\n')


def write_if_new(path: Path, text: str) -> None:
    """Leave a file alone that has the text, so that ninja need not compile what reads it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def ninja_rules(out: Path, build: Path) -> list[str]:
    """The text of build.ninja for every library that can be built here."""
    lines, cxx, nvcc = ["ninja_required_version = 1.5"], find_cxx(), wanted_nvcc()
    cpu_flags = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread"]
    toolchains = {  # CUDA's units take longest: they come first
        "cuda": (nvcc, "cu", *(cuda_flags(nvcc) if nvcc else ([], []))),
        "cpu": (cxx, "cpp", cpu_flags, ["-shared", "-pthread"]),
    }
    for name, (compiler, suffix, compile_flags, link_flags) in toolchains.items():
        patterns = (f"*/{name}*.{suffix}", f"*/{name}/**/*.{suffix}")
        sources = sorted(path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))
        if compiler is None or not sources:
            print(f"fastinpaint: no compiler for the {name} kernels: installed without them", file=sys.stderr)
            continue
        lines += [
            f"rule compile_{name}",
            f"  command = {compiler} -MMD -MF $out.d {' '.join(compile_flags)} $extra -I{ROOT / 'csrc'} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            f"  description = {name}: $in $extra",
            f"rule link_{name}",
            f"  command = {compiler} {' '.join(link_flags)} $in -o $out",
        ]
        headers = precompiled(compiler, build) if name == "cpu" else {}
        for isa, header in headers.items():
            lines += [f"build {header}.gch: compile_cpu {build}/cpu_math.h"]
            lines += [f"  extra = {' '.join([*isa_flags(isa), '-x c++-header'])}"]
        objects = []
        for source in sources:
            stem = "_".join(source.relative_to(ROOT / "csrc").with_suffix("").parts)
            for variant, extra in cpu_variants(source) if name == "cpu" else cuda_variants(source):
                objects.append(f"{build}/{name}/{stem}{variant}.o")
                header = headers.get(variant[1:])
                needs = f" | {header}.gch" if header else ""
                lines += [f"build {objects[-1]}: compile_{name} {source}{needs}"]
                lines += [f"  extra = {' '.join([*extra, *([f'-include {header}'] if header else [])])}"]
        objects.append(f"{build}/{name}_sources.o")
        lines += [f"build {objects[-1]}: compile_{name} {build}/{name}_sources.cpp"]
        library = out / f"libfastinpaint_{name}.so"
        lines += [f"build {library}: link_{name} {' '.join(objects)}", f"default {library}"]
    return lines


class BuildKernels(build_ext):
    """Runs ninja once; the libraries are optional, so a machine with no compiler still installs."""

    def run(self) -> None:
        package = ROOT / "fastinpaint" if self.inplace or self.editable_mode else Path(self.build_lib) / "fastinpaint"
        package = package.resolve()
        package.mkdir(parents=True, exist_ok=True)
        build = (ROOT / "build" / "kernels").resolve()
        build.mkdir(parents=True, exist_ok=True)
        rules = ninja_rules(package, build)
        if not any(line.startswith("default") for line in rules):
            return
        write_sources_units(build)
        (build / "build.ninja").write_text("\n".join(rules) + "\n")
        ninja = shutil.which("ninja") or str(Path(sys.executable).parent / "ninja")
        subprocess.run([ninja, "-C", str(build)], check=True)

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class AnyPythonWheel(bdist_wheel):
    """Kernels behind a C ABI serve every Python and every torch: the wheel is py3-none-<platform>."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[Extension("fastinpaint._kernels", sources=[])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPythonWheel},
)
