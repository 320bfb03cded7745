"""The Triton kernels compile with no GPU as docs/triton.md says: no spills, shared memory in budget, tensor cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from fastinpaint.testing import aot, static_model  # noqa: E402

ROOT = Path(__file__).parents[2]
FIELDS = ("layer", "kernel", "target", "block", "warps", "registers", "spilled", "shared", "matrix", "operand")


def documented() -> list[dict[str, str]]:
    """The rows of the table of compiled kernels."""
    block = static_model.PAGE.read_text().split(aot.BEGIN)[1].split(aot.END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()[2:]]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def test_every_target_and_kind_of_layer_is_in_the_table():
    rows = documented()
    assert {row["target"] for row in rows} == set(aot.TARGETS)
    assert {row["layer"] for row in rows} == {*aot.DOCUMENTED, "elementwise"}
    for kernel in ("conv_fwd_kernel", "conv_dgrad_kernel", "conv_wgrad_kernel"):
        assert {row["target"] for row in rows if row["kernel"] == kernel} == set(aot.TARGETS)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_the_table_shows_what_may_spill_and_tensor_cores(target):
    for row in documented():
        if row["target"] == target:
            assert int(row["spilled"]) <= aot.SPILL_LIMIT[target], row
            assert int(row["shared"]) <= aot.SHARED_LIMIT[target], row
            assert row["layer"] == "elementwise" or any(op in row["matrix"] for op in aot.MATRIX_OPS[target]), row
            # wgmma takes 64 rows; the wgrad of a layer with three outputs has 16
            narrow = row["kernel"] == "conv_wgrad_kernel" and "x16x16" in row["block"]
            assert target != "sm_90" or row["layer"] == "elementwise" or narrow or "HGMMA" in row["matrix"], row


def test_a_layer_compiles_as_the_table_says():
    """In a process of its own, with the variables that the table was made with; cached in build/."""
    command = [sys.executable, "-m", "fastinpaint.testing.aot", "--targets", "sm_90", "--layers", "3dcn.1"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(ROOT / "build" / "triton")}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| 3dcn.1 |")]
    assert len(lines) == 2
    page = static_model.PAGE.read_text()
    for line in lines:
        assert "HGMMA" in line
        assert triton.__version__ != "3.9.0" or line in page


def test_the_static_model_is_that_of_the_code():
    """The page's other table is what the script prints today, and its sums are the paper's step."""
    table = static_model.table()
    assert table in static_model.PAGE.read_text()
    total = table.splitlines()[-1].split("|")
    assert float(total[3]) == pytest.approx(2668, abs=1)  # GFLOP: 2.67 TFLOP
    assert float(total[4]) == pytest.approx(2.34 / 2.67, abs=0.02)  # live share: 2.34 TFLOP


def test_what_spills_or_overflows_is_said():
    fine = aot.Compiled("k", "sm_90", 8, 3, "1x8x16", 255, 0, 1000, {}, True, 0.0)
    assert fine.complaint() is None
    assert "spills 64 bytes" in str(fine._replace(spilled=64).complaint())
    assert "300000 bytes of shared memory" in str(fine._replace(shared=300000).complaint())
