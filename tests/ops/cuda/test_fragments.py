"""Single instructions of the emulation, fragment by fragment, against the PTX manual's tables.

`tests/gpu/test_fragments.py` asks a GPU the same.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from tests.ops.cuda import fragments
from tools.inspect import sass
from tools.verify import emulated
from tools.verify.emulated import Plant

pytestmark = pytest.mark.skipif(emulated.why_not() is not None, reason=str(emulated.why_not()))


@pytest.mark.parametrize("name", fragments.CHECKS)
def test_an_emulated_instruction_is_the_manuals(name: str) -> None:
    library = ctypes.CDLL(str(emulated.build(sources=[fragments.SOURCE])))
    fragments.CHECKS[name](library, "cpu")


TENSOR, COPY = "cuda_on_cpu/tensor_core.h", "cuda_on_cpu/async_copy.h"
PLANTS = {
    "m16n8k16 bf16": Plant(TENSOR, "right[group][2 * t + half + 8 * i]", "right[group][2 * t + (half ^ 1) + 8 * i]"),
    "m16n8k16 f16": Plant(
        TENSOR, "left[group + 8 * (i & 1)][2 * t + half + 8 * (i >> 1)]",
        "left[group + 8 * (i >> 1)][2 * t + half + 8 * (i & 1)]",
    ),
    "m16n8k8 tf32": Plant(
        TENSOR, "left[group + 8 * (i & 1)][t + 4 * (i >> 1)]", "left[group + 8 * (i >> 1)][t + 4 * (i & 1)]"
    ),
    "tf32 factors": Plant(TENSOR, "bits &= ~0x1FFFu;", "bits &= ~0xFFFu;"),
    "ldmatrix x4": Plant(TENSOR, ": m[group][2 * t];", ": m[group][2 * t ^ 2];"),
    "ldmatrix x4 trans": Plant(TENSOR, "transposed ? m[2 * t + 1][group]", "transposed ? m[2 * t][group + 1 & 7]"),
    "cp.async": Plant(COPY, "memset(copy.to, 0, 16)", "memset(copy.to, 0, 8)"),
    "cvt.rna.tf32": Plant(TENSOR, "(bits + 0x1000)", "(bits + 0xFFF)"),
}  # fmt: skip


@pytest.mark.parametrize("name", fragments.CHECKS)
def test_a_wrong_table_is_found(name: str) -> None:
    alone = ["m16n8k8 tf32"]  # the others are in one library, where this plant would hide another one
    planted = alone if name in alone else [other for other in PLANTS if other not in alone]
    library = emulated.build(plants=[PLANTS[plant] for plant in planted], sources=[fragments.SOURCE])
    with pytest.raises(AssertionError, match=re.escape(name.split()[0])):
        fragments.CHECKS[name](ctypes.CDLL(str(library)), "cpu")


@pytest.mark.skipif(sass.nvcc() is None or sass.cuobjdump() is None, reason="nvcc and cuobjdump are needed")
def test_nvcc_makes_those_instructions_of_the_same_source(tmp_path: Path) -> None:
    made, csrc = tmp_path / "probe.o", emulated.ROOT / "csrc"
    command = [str(sass.nvcc()), "-std=c++17", "-gencode=arch=compute_80,code=sm_80", f"-I{csrc}", "-c"]
    subprocess.run([*command, str(csrc / fragments.SOURCE), "-o", str(made)], check=True)
    listing = subprocess.run([str(sass.cuobjdump()), "-sass", str(made)], capture_output=True, text=True, check=True)
    found = set(re.findall(r"\b(?:HMMA|LDSM|LDGSTS)[.\w]*", listing.stdout))
    assert found >= {"HMMA.16816.F32.BF16", "HMMA.16816.F32", "HMMA.1688.F32.TF32", "LDSM.16.M88.4", "LDSM.16.MT88.4"}
    assert any(name.startswith("LDGSTS") for name in found)
