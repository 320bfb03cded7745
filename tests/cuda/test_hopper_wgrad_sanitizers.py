"""The weight's gradient on wgmma, emulated, under the sanitizers; planted defects are found."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest

from fastinpaint.testing import emulated
from fastinpaint.testing.emulated import Plant

SOURCES = ("conv_block/cuda_wgrad.cu", "conv_block/cuda_hopper_wgrad.cu")
KERNEL = "conv_block/kernels_hopper_wgrad.cuh"


def run(sanitizer: str, dtypes: str, cases: list[str], seeds: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.cuda.hopper_wgrad", "--seeds", seeds, dtypes, *cases]
    return emulated.run(sanitizer, command, emulated.build(sanitizer, sources=SOURCES, **options))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_it_runs_clean_in_three_schedules(sanitizer: str) -> None:
    launched: set[str] = set()
    for dtype, case in (("bfloat16", "several tiles"), ("float16", "large mean")):
        done = run(sanitizer, dtype, [case], "1,2,3")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        launched |= set(done.stdout.splitlines())
    assert {"hopper_wgrad_kernel<bf16>", "hopper_wgrad_kernel<half>"} <= launched


class Defect(NamedTuple):
    """What is planted, which build must find it, and what it says."""

    plant: Plant
    finder: str
    message: str


NOT_SHOWN = "no bulk copy and no fence.proxy.async has shown"
DEFECTS = {
    "tile refilled before it is read": Defect(
        Plant(KERNEL, "*next_q = q_tiles + (half ^ 1) * kTurnedTile", "*next_q = q_tiles + half * kTurnedTile"),
        *("thread", "data race"),
    ),
    "patch refilled before it is read": Defect(
        Plant(KERNEL, "half ? first_patch : second_patch, *next_q", "first_patch, *next_q"),
        *("thread", "data race"),
    ),
    "second tile not waited for": Defect(
        Plant(KERNEL, "__syncthreads();  // this tile is", "if (half == 0) __syncthreads();  // this tile is"),
        *("plain", NOT_SHOWN),
    ),
    "tile not shown to the tensor cores": Defect(
        Plant(KERNEL, "    }\n    fence_proxy_async();\n  }\n  store_", "    }\n  }\n  store_"), "plain", NOT_SHOWN
    ),
    "one group of a step not waited for": Defect(
        Plant(KERNEL, "  wgmma_wait<0>();", "  wgmma_wait<1>();"), *("plain", "registers of A changed")
    ),
    "registers of A loaded too early": Defect(
        Plant(KERNEL, "if (i >= 2) wgmma_wait<1>();", ""), *("plain", "registers of A changed")
    ),
    "fence of registers removed": Defect(
        Plant(KERNEL, "    wgmma_fence();", ""), *("plain", "without a wgmma.fence")
    ),
    "A not turned": Defect(Plant(KERNEL, "ldmatrix_x4<true>", "ldmatrix_x4<false>"), "plain", "dweight: max error"),
    "swizzle forgotten": Defect(
        Plant(KERNEL, "(threadIdx.x ^ at) % Loader::kGroups", "threadIdx.x % Loader::kGroups"),
        *("plain", "dweight: max error"),
    ),
    "wrong descriptor offset": Defect(
        Plant(KERNEL, "b += 2048 >> 4", "b += 1024 >> 4"), *("plain", "dweight: max error")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    defect = DEFECTS[name]
    done = run(defect.finder, "bfloat16", ["several tiles"], "1", plants=[defect.plant])
    assert done.returncode != 0, f"{name} went unnoticed"
    assert defect.message in done.stdout + done.stderr, done.stderr[-3000:]
