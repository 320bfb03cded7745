"""Finds NVIDIA's compiler. setup.py imports this file too, so it uses only the standard library."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def find_nvcc() -> str | None:
    """The path of nvcc from CUDA_HOME, PATH, PyPI's packages or /usr/local/cuda, or None."""
    home = os.environ.get("CUDA_HOME")
    places = [*sys.path, sysconfig.get_path("purelib")]  # pip's isolated build does not see site-packages
    wheels = [str(p) for entry in places for p in Path(entry).glob("nvidia/*/bin/nvcc")]
    for candidate in (home and f"{home}/bin/nvcc", shutil.which("nvcc"), *wheels, "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).exists():
            return candidate
    return None
