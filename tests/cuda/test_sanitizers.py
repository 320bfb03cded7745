"""All kernels under address, undefined-behaviour and thread sanitizer, in several schedules; planted defects are found.

Sanitized libraries run in processes of their own, with the sanitizer's runtime preloaded.
"""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest

from fastinpaint.testing import emulated
from fastinpaint.testing.emulated import Plant
from tests.cuda import small_cases

CONV = "conv_block/cuda.cu"
SANITIZED = [*small_cases.OTHERS, "stride 2, two sources", "odd channels", "transposed 2d", "4 channels in, 5x5"]


def run(sanitizer: str, dtype: str, cases: list[str], seed: int, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.cuda.small_cases", dtype, *cases]
    return emulated.run(sanitizer, command, emulated.build(sanitizer, **options), seed)


@pytest.mark.parametrize(
    ("sanitizer", "dtype", "seed"),
    [
        ("address", "float32", 1), ("address", "bfloat16", 2), ("address", "tf32", 5),
        ("thread", "float32", 3), ("thread", "bfloat16", 4), ("thread", "tf32", 6),
    ],
)  # fmt: skip
def test_kernels_run_clean(sanitizer: str, dtype: str, seed: int) -> None:
    done = run(sanitizer, dtype, [c for c in SANITIZED if dtype != "tf32" or c in small_cases.CONVS], seed)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


class Defect(NamedTuple):
    """What is planted, in which source, which case meets it, and which build must find it, saying what."""

    plant: Plant
    source: str
    case: str
    finder: str
    message: str
    dtype: str = "bfloat16"


DEFECTS = {
    "barrier removed": Defect(
        Plant("conv_block/kernels_gather.cuh", "      __syncthreads();  // this step's", "      // this step's"),
        *(CONV, "2d forward", "thread", "data race"),
    ),
    "index off by one in global memory": Defect(
        Plant("conv_block/kernels_epilogue.cuh", "if (h >= tile.rows || w >=", "if (h > tile.rows || w >="),
        *(CONV, "2d forward", "address", "heap-buffer-overflow"),
    ),
    "index off by one in shared memory": Defect(
        Plant("conv_block/kernels_tile.cuh", "(staged + row * pitch", "(staged + (row + 1) * pitch"),
        *(CONV, "2d forward", "address", "use-after-poison"),
    ),
    "wrong cp.async wait count": Defect(
        Plant("conv_block/kernels_gather.cuh", "cp_async_wait<1>();", "cp_async_wait<2>();"),
        *(CONV, "2d forward", "plain", "AssertionError: y"),
    ),
    "misaligned vector load": Defect(
        Plant("common/cuda_source.cuh", "source.channels % kVector == 0 && is_aligned", "is_aligned"),
        *("activation/cuda.cu", "activation", "address", "misaligned address"),
    ),
    "tail mask dropped": Defect(
        Plant("common/cuda_vector.cuh", "if (i < valid) p[i] = value.v[i];", "p[i] = value.v[i];"),
        *("activation/cuda.cu", "activation", "address", "heap-buffer-overflow"),
    ),
    "tf32 fragment from the wrong row": Defect(
        Plant("conv_block/kernels_tile.cuh", "b[1] = from[(t + 4) * pitch", "b[1] = from[(t + 3) * pitch"),
        *(CONV, "2d forward", "plain", "AssertionError: y", "tf32"),
    ),
    "accumulator not cleared": Defect(
        Plant("conv_block/kernels_gather.cuh", "Accumulators<BN> acc = {};", "Accumulators<BN> acc;"),
        *(CONV, "2d forward", "plain", "AssertionError: y"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    defect = DEFECTS[name]
    done = run(defect.finder, defect.dtype, [defect.case], 1, plants=[defect.plant], sources=[defect.source])
    assert done.returncode != 0, f"{name} went unnoticed"
    assert defect.message in done.stdout + done.stderr, done.stderr[-3000:]


def test_a_plant_must_match() -> None:
    with pytest.raises(ValueError, match="must occur once"):
        emulated.build(plants=[Plant("common/cuda_vector.cuh", "no such text", "")])
