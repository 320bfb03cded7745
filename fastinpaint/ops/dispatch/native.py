"""Loads the compiled kernels: plain C ABI, no torch and no Python headers, found in the package's folder."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

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
    return None
