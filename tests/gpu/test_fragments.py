"""Single instructions of a GPU agree with the PTX manual's tables, and bit by bit with the emulation."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch

from tests.ops.cuda import fragments
from tools.inspect import sass
from tools.verify import emulated

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The probe, compiled by nvcc for this GPU."""
    if (nvcc := sass.nvcc()) is None:
        pytest.skip("there is no nvcc to compile the probe with")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        pytest.skip(f"the instructions need compute capability 8.0 or higher, got {major}.{minor}")
    library, csrc = tmp_path_factory.mktemp("probe") / "probe.so", emulated.ROOT / "csrc"
    command = [nvcc, "-std=c++17", "-O3", "-shared", "-cudart=static", "-Xcompiler=-fPIC", f"-arch=sm_{major}{minor}"]
    subprocess.run([*command, f"-I{csrc}", str(csrc / fragments.SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("name", fragments.CHECKS)
def test_an_instruction_is_the_manuals_and_the_emulations(name: str, probe: ctypes.CDLL) -> None:
    found = fragments.CHECKS[name](probe, "cuda")  # asserts the manual's part, with or without g++
    if emulated.why_not() is None:
        library = ctypes.CDLL(str(emulated.build(sources=[fragments.SOURCE])))
        assert torch.equal(found.view(torch.int32), fragments.CHECKS[name](library, "cpu").view(torch.int32))
