"""Loads the compiled kernels: plain C ABI, no torch and no Python headers, found in the package's folder."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from fastinpaint.ops.dispatch.source_hash import cxx_hash

HERE = Path(__file__).parents[2]  # the package
TOOLS = {
    "cpu": "a C++ compiler (g++ or clang++)",
    "cuda": "nvcc (of the CUDA toolkit, or by `pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl`)",
}


@functools.cache
def load(name: str) -> ctypes.CDLL | None:
    """``libfastinpaint_<name>.so`` (name: ``cpu`` or ``cuda``), or None where it was not built or cannot be loaded."""
    try:
        return ctypes.CDLL(str(HERE / f"libfastinpaint_{name}.so"))
    except OSError:
        return None


def why_not(name: str) -> str | None:
    """Why the library of that name cannot be used, in one sentence, or None where it can."""
    return _why_not(name, HERE)


@functools.cache
def _why_not(name: str, folder: Path) -> str | None:
    """Called before every call of a kernel, so it looks at the disk only once."""
    if not (folder / f"libfastinpaint_{name}.so").exists():
        return f"the {name} kernels are not built; install {TOOLS[name]} and run `pip install -e .` again."
    if load(name) is None:
        return f"libfastinpaint_{name}.so does not load here; run `pip install -e .` again."
    csrc = folder.parent / "csrc"  # in a checkout
    if csrc.is_dir() and built_from(name) not in (None, cxx_hash(csrc, name)):
        return f"libfastinpaint_{name}.so was built from other sources than csrc holds; run `pip install -e .` again."
    return None


def built_from(name: str) -> str | None:
    """The hash of the sources that the library was built from, or None if it has none."""
    try:
        return (ctypes.c_char * 64).in_dll(load(name), "fi_sources").value.decode()  # type: ignore[arg-type]
    except ValueError:
        return None
