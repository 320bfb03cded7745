"""The wgmma path, emulated, under address, undefined-behaviour and thread sanitizer; planted defects are found."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from fastinpaint.ops.dispatch import native_cuda
from tests.ops.cuda.planted import Program
from tools.verify.emulated import Plant

GATHER, WGRAD = "conv_block/cuda/hopper/fwd_dgrad_kernel.cuh", "conv_block/cuda/hopper/wgrad_kernel.cuh"
PROGRAMS = {
    GATHER: Program(
        "tests.ops.cuda.small_cases",
        ("conv_block/cuda/fwd_dgrad.cu", "conv_block/cuda/hopper/fwd_dgrad.cu"),
        {native_cuda.HOPPER: "all"},
    ),
    WGRAD: Program(
        "tests.ops.conv_block.cuda.hopper_wgrad", ("conv_block/cuda/wgrad.cu", "conv_block/cuda/hopper/wgrad.cu")
    ),
}
MET = {GATHER: "stride 2, two sources forward", WGRAD: "several tiles"}  # the case that meets the defects


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_gather_runs_clean_in_three_schedules(sanitizer: str) -> None:
    launched = PROGRAMS[GATHER].launched(sanitizer, "bfloat16,float16", [MET[GATHER], "transposed 2d forward"], "1,2,3")
    assert {"hopper_gather_kernel<bf16>", "pack_hopper_kernel<half>"} <= launched


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_wgrad_runs_clean_in_three_schedules(sanitizer: str) -> None:
    launched = PROGRAMS[WGRAD].launched(sanitizer, "bfloat16", [MET[WGRAD], "dilation 8"], "1,2,3")
    launched |= PROGRAMS[WGRAD].launched(sanitizer, "float16", ["large mean"], "1,2,3")
    assert {"hopper_wgrad_kernel<bf16>", "hopper_wgrad_kernel<half>"} <= launched


class Defect(NamedTuple):
    """What is planted, which build must find it, and what it says."""

    plant: Plant
    finder: str
    message: str


NOT_SHOWN = "no bulk copy and no fence.proxy.async has shown"
DEFECTS = {
    "wrong descriptor offset": Defect(
        Plant(GATHER, "b + k * (32 >> 4)", "b + k * (64 >> 4)"), "plain", "no bulk copy and no fence"
    ),
    "swizzle forgotten in packing": Defect(
        Plant(GATHER, "int piece = k / kVector ^ column;", "int piece = k / kVector;"), "plain", "AssertionError: y"
    ),
    "wrong phase": Defect(
        Plant(GATHER, "mbarrier_wait(full + stage, parity)", "mbarrier_wait(full + stage, parity ^ 1)"),
        *("plain", "no bulk copy and no fence"),
    ),
    "stage refilled before it is read": Defect(
        Plant(GATHER, "    mbarrier_wait(empty + stage, parity);", "    "), *("thread", "data race")
    ),
    "one group of a step not waited for": Defect(
        Plant(GATHER, "      wgmma_wait<0>();", "      wgmma_wait<1>();"), *("plain", "no bulk copy and no fence")
    ),
    "registers of A loaded too early": Defect(
        Plant(GATHER, "if (k >= 2) wgmma_wait<1>();", ""), *("plain", "registers of A changed")
    ),
    "fence removed": Defect(Plant(GATHER, "        wgmma_fence();", ""), "plain", "without a wgmma.fence"),
    "patch not waited for": Defect(
        Plant(GATHER, "    __syncthreads();  // this patch", "    // this patch"),
        *("thread", "data race"),
    ),
    "wgrad: tile refilled before it is read": Defect(
        Plant(WGRAD, "*next_q = q_tiles + (half ^ 1) * kWgmmaWgradTile", "*next_q = q_tiles + half * kWgmmaWgradTile"),
        *("thread", "data race"),
    ),
    "wgrad: patch refilled before it is read": Defect(
        Plant(WGRAD, "half ? first_patch : second_patch, *next_q", "first_patch, *next_q"),
        *("thread", "data race"),
    ),
    "wgrad: second tile not waited for": Defect(
        Plant(WGRAD, "__syncthreads();  // this tile is", "if (half == 0) __syncthreads();  // this tile is"),
        *("plain", NOT_SHOWN),
    ),
    "wgrad: tile not shown to the tensor cores": Defect(
        Plant(WGRAD, "    }\n    fence_proxy_async();\n  }\n  store_", "    }\n  }\n  store_"), "plain", NOT_SHOWN
    ),
    "wgrad: one group of a step not waited for": Defect(
        Plant(WGRAD, "  wgmma_wait<0>();", "  wgmma_wait<1>();"), *("plain", "registers of A changed")
    ),
    "wgrad: registers of A loaded too early": Defect(
        Plant(WGRAD, "if (i >= 2) wgmma_wait<1>();", ""), *("plain", "registers of A changed")
    ),
    "wgrad: fence of registers removed": Defect(
        Plant(WGRAD, "    wgmma_fence();", ""), *("plain", "without a wgmma.fence")
    ),
    "wgrad: A not transposed": Defect(
        Plant(WGRAD, "ldmatrix_x4<true>", "ldmatrix_x4<false>"), *("plain", "dweight: max error")
    ),
    "wgrad: swizzle forgotten": Defect(
        Plant(WGRAD, "unsigned(group ^ position) %", "unsigned(group) %"), *("plain", "dweight: max error")
    ),
    "wgrad: swizzle of the patch forgotten": Defect(
        Plant(
            WGRAD,
            "patch + swizzled(at, threadIdx.x)",
            "patch + at * kWgmmaWgradChannels + threadIdx.x % 8 * kVector",
        ),
        *("plain", "dweight: max error"),
    ),
    "wgrad: wrong descriptor offset": Defect(
        Plant(WGRAD, "b += 2048 >> 4", "b += 1024 >> 4"), *("plain", "dweight: max error")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    plant, finder, message = DEFECTS[name]
    PROGRAMS[plant.file].must_find(plant, finder, message, MET[plant.file])
