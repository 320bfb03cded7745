"""How ptxas compiles the sources of the wgmma paths."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.inspect import sass
from tools.verify import emulated

DTYPES = ("bf16", "half")


def compiled(source: str, wanted: Mapping[str, Sequence[int]], folder: Path) -> str:
    """A source's SASS for sm_90a, once ptxas has no complaint of it and its kernels exist in each dtype and size.

    Raises:
        AssertionError: ptxas warns that wgmma are serialised, a kernel spills or lacks an instruction that it needs.
    """
    made, csrc = folder / "hopper.o", emulated.ROOT / "csrc"
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v"]
    command = [str(sass.nvcc()), *flags, f"-I{csrc}", "-c", str(csrc / source), "-o", str(made)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    report = said.stdout + said.stderr
    assert not re.findall(r".*(?:C75\d\d|serialized|Performance Loss).*", report)
    assert not re.findall(r".*[1-9]\d* bytes (?:spill|stack).*", report)
    kernels = [found for found in sass.kernels(made) if found.name.startswith(tuple(wanted))]
    assert {found.name for found in kernels} == {
        f"{kernel}<{dtype}, {n}>" for kernel, sizes in wanted.items() for dtype in DTYPES for n in sizes
    }
    assert not [complaint for found in kernels if (complaint := found.complaint())]
    command = [str(sass.cuobjdump()), "-sass", str(made)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
