"""See the package."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from unittest import mock

import setuptools  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[3]
OUT = ROOT / "build" / "wide"
LEVELS = ("avx512", "avx512bf16", "amx")
WIDE = ["-mavx2", "-mfma", "-include", str(Path(__file__).with_name("avx512.h"))]
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-psabi", f"-I{ROOT / 'csrc'}"]
# What the processor is asked for, it has. The best level needs no variable but for AMX.
PRETEND = ["-D__builtin_cpu_supports(name)=1"]
# Its yardstick is stock torch, which errs less with AVX2 than with AVX-512: the kernels for AVX2 have smaller tiles.
LEFT_OUT = "tests/ops/conv_block/cpu/test_winograd.py::test_forward_and_gradients[many_pixels_dilated]"
TESTS = [f"tests/ops/{name}" for name in ("conv_block/cpu", "activation", "channel_scale", "norm_act")]


def setup_script() -> ModuleType:
    """setup.py, without a build."""
    spec = importlib.util.spec_from_file_location("fastinpaint_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(setuptools, "setup"):
        spec.loader.exec_module(module)
    return module


def flags_of(script: ModuleType, variant: str) -> list[str]:
    """The flags of one source for a level of setup.py, or for the baseline."""
    if "avx512" not in variant:
        return script.isa_flags(variant[1:]) if variant else [*script.KNOWN_ISAS, *PRETEND]
    defined = [flag for flag in script.isa_flags(variant[1:]) if flag.startswith("-D")]
    bf16 = ["-D__AVX512BF16__"] if "bf16" in variant else []
    return [*defined, *bf16, *WIDE]


def build(level: str) -> None:
    """Compile what changed since the last build, and link the library into the package's copy."""
    script, objects, commands = setup_script(), [], []
    OUT.mkdir(parents=True, exist_ok=True)
    script.write_sources_units(OUT)
    sources = sorted(path for pattern in ("*/cpu*.cpp", "*/cpu/**/*.cpp") for path in (ROOT / "csrc").glob(pattern))
    headers = [*(ROOT / "csrc").rglob("*.h"), *Path(__file__).parent.iterdir()]
    newest = max(path.stat().st_mtime for path in headers)
    for source in [*sources, OUT / "cpu_sources.cpp"]:
        tiles = level == "amx" and "amx" in source.stem
        for variant, _ in script.cpu_variants(source):
            made = OUT / f"{'_'.join(source.parts[-3:])}{variant}{'_emulated' if tiles else ''}.o"
            objects.append(made)
            if not made.exists() or made.stat().st_mtime < max(newest, source.stat().st_mtime):
                flags = [*FLAGS, *flags_of(script, variant), *(["-DFI_EMULATE_AMX"] if tiles else [])]
                commands.append(["g++", *flags, "-c", str(source), "-o", str(made)])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda command: subprocess.run(command, check=False), commands):
            done.check_returncode()
    package = OUT / level / "package"
    copy_tree(package)
    library = package / "fastinpaint" / "libfastinpaint_cpu.so"
    subprocess.run(["g++", "-shared", "-pthread", *map(str, objects), "-o", str(library)], check=True)


def copy_tree(to: Path) -> None:
    """A tree of links to the checkout, in which the package's own folder is real."""
    (to / "fastinpaint").mkdir(parents=True, exist_ok=True)
    links = {to / name: ROOT / name for name in ("tests", "tools", "benchmarks", "csrc", "pyproject.toml", "setup.py")}
    links |= {to / "fastinpaint" / path.name: path for path in (ROOT / "fastinpaint").iterdir() if path.suffix != ".so"}
    for link, target in links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def main(arguments: list[str]) -> int:
    """Build, and run pytest there."""
    level = arguments.pop(0) if arguments and arguments[0] in LEVELS else LEVELS[0]
    build(level)
    package = OUT / level / "package"
    environment = {**os.environ, "PYTHONPATH": str(package), "FASTINPAINT_CPU_ISA": level}
    pytest = [sys.executable, "-m", "pytest", "--deselect", LEFT_OUT, *(arguments or [*TESTS, "-n", "2"])]
    return subprocess.call(pytest, cwd=package, env=environment)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
