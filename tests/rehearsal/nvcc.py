"""Replaces nvcc when a test compiles a probe: builds the emulation of that source.

python -m tests.rehearsal.nvcc ... SOURCE.cu -o LIBRARY
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools.verify import emulated


def script() -> Path:
    """The command line."""
    path = emulated.ROOT / "build" / "rehearsal" / "nvcc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncd {emulated.ROOT} && exec {sys.executable} -m tests.rehearsal.nvcc "$@"\n')
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    source = next(argument for argument in sys.argv if argument.endswith(".cu"))
    name = str(Path(source).relative_to(emulated.ROOT / "csrc"))
    shutil.copy(emulated.build(sources=[name]), sys.argv[sys.argv.index("-o") + 1])
