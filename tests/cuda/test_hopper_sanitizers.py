"""The wgmma path, emulated, under address, undefined-behaviour and thread sanitizer; planted defects are found."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest

from fastinpaint.ops import native_cuda
from fastinpaint.testing import emulated
from fastinpaint.testing.emulated import Plant

SOURCES = ("conv_block/cuda.cu", "conv_block/cuda_hopper.cu")
KERNEL = "conv_block/kernels_hopper.cuh"


def run(sanitizer: str, dtypes: str, cases: list[str], seeds: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.cuda.small_cases", "--seeds", seeds, dtypes, *cases]
    library = emulated.build(sanitizer, sources=SOURCES, **options)
    return emulated.run(sanitizer, command, library, variables={native_cuda.HOPPER: "all"})


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_it_runs_clean_in_three_schedules(sanitizer: str) -> None:
    done = run(sanitizer, "bfloat16,float16", ["stride 2, two sources forward", "transposed 2d forward"], "1,2,3")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert {"hopper_gather_kernel<bf16>", "pack_hopper_kernel<half>"} <= set(done.stdout.splitlines())


class Defect(NamedTuple):
    """What is planted, which build must find it, and what it says."""

    plant: Plant
    finder: str
    message: str


DEFECTS = {
    "wrong descriptor offset": Defect(
        Plant(KERNEL, "b + k * (32 >> 4)", "b + k * (64 >> 4)"), "plain", "no bulk copy and no fence"
    ),
    "swizzle forgotten in packing": Defect(
        Plant(KERNEL, "(at / kVector ^ n) % kVector", "at / kVector % kVector"), "plain", "AssertionError: y"
    ),
    "wrong phase": Defect(
        Plant(KERNEL, "mbarrier_wait(full + stage, parity)", "mbarrier_wait(full + stage, parity ^ 1)"),
        *("plain", "no bulk copy and no fence"),
    ),
    "stage refilled before it is read": Defect(
        Plant(KERNEL, "    mbarrier_wait(empty + stage, parity);", "    "), *("thread", "data race")
    ),
    "one group of a step not waited for": Defect(
        Plant(KERNEL, "      wgmma_wait<0>();", "      wgmma_wait<1>();"), *("plain", "no bulk copy and no fence")
    ),
    "registers of A loaded too early": Defect(
        Plant(KERNEL, "if (k >= 2) wgmma_wait<1>();", ""), *("plain", "registers of A changed")
    ),
    "fence removed": Defect(Plant(KERNEL, "        wgmma_fence();", ""), "plain", "without a wgmma.fence"),
    "patch not waited for": Defect(
        Plant(KERNEL, "    __syncthreads();  // this patch is there", "    // this patch is there"),
        *("thread", "data race"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    defect = DEFECTS[name]
    done = run(defect.finder, "bfloat16", ["stride 2, two sources forward"], "1", plants=[defect.plant])
    assert done.returncode != 0, f"{name} went unnoticed"
    assert defect.message in done.stdout + done.stderr, done.stderr[-3000:]
