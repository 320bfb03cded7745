"""The CPU tests on every lower instruction set, in separate processes, as the level is chosen once per process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastinpaint.ops.dispatch import native, native_cpu

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))
HERE = Path(__file__).parent


def run(level: str, *arguments: str) -> str:
    environment = {**os.environ, "FASTINPAINT_CPU_ISA": level}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
def test_kernels_of_a_lower_level(level: str) -> None:
    if native_cpu.ISAS.index(native_cpu.isa()) <= native_cpu.ISAS.index(level):
        pytest.skip(f"the other tests run on {native_cpu.isa()} here")
    probe = "from fastinpaint.ops.dispatch import native_cpu; print(native_cpu.isa())"
    assert run(level, "-c", probe).strip() == level
    out = run(
        level,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not gradients_of_the_reference and not derivative_of_itself and not registered_operators",  # know no level
        str(HERE / "test_winograd.py"),
        str(HERE / "test_bf16.py"),
        str(HERE / "test_thin.py"),
        str(HERE / "test_depthwise.py"),
        str(HERE / "test_matmul.py"),
        str(HERE / "test_loaded_activations.py"),
        str(HERE / "test_maps.py"),
        str(HERE.parents[1] / "norm_act"),
    )
    assert "passed" in out
