"""Builds and loads guard.cpp before torch is imported, so that torch's C++ code finds a CUDA device."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def load() -> None:
    """Make autograd run nodes on a CUDA device in any build of torch; imports torch."""
    library = ctypes.CDLL(str(build()))  # first of all: torch asks once whether there is CUDA
    import torch  # noqa: F401 - a build with CUDA brings a guard of its own

    library.register_guard()


def build() -> Path:
    """The library, built once for this torch."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torchs = Path(spec.origin).parent
    digest = hashlib.sha256(SOURCE.read_bytes() + importlib.metadata.version("torch").encode()).hexdigest()[:16]
    library = SOURCE.parents[2] / "build" / "rehearsal" / f"guard-{digest}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        beside = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-std=c++20", "-w", "-shared", "-fPIC", f"-I{torchs / 'include'}", str(SOURCE)]
        command += ["-o", str(beside), f"-L{torchs / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torchs / 'lib'}"]
        subprocess.run(command, check=True)
        beside.replace(library)
    return library
