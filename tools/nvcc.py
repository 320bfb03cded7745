"""Finds NVIDIA's compiler. setup.py imports this file too: the standard library alone is at hand."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def find_nvcc() -> str | None:
    """nvcc: of CUDA_HOME, on PATH, of PyPI's packages, or in the usual place; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    places = [*sys.path, sysconfig.get_path("purelib")]  # pip builds in a place of its own, without site-packages
    wheels = [str(p) for entry in places for p in Path(entry).glob("nvidia/*/bin/nvcc")]
    for candidate in (home and f"{home}/bin/nvcc", shutil.which("nvcc"), *wheels, "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).exists():
            return candidate
    return None
