"""The wgmma path, emulated, under address, undefined-behaviour and thread sanitizer; planted defects are found."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from fastinpaint.ops.dispatch import native_cuda
from tests.ops.cuda.planted import EVERY, Program
from tools.verify.emulated import Plant

FOLDER = "conv_block/cuda/hopper/"
HOPPER = f"{FOLDER}launch.cu"
GATHER, WGRAD, STRIPS = f"{FOLDER}fwd_dgrad_kernel.cuh", f"{FOLDER}wgrad_kernel.cuh", f"{FOLDER}strips.cuh"
PIPELINE, GATHER_PLAN = f"{FOLDER}pipeline.cuh", f"{FOLDER}fwd_dgrad_plan.cuh"
BACKWARD = "dgrad, then wgrad on its strips"
PROGRAMS = {
    GATHER: Program(
        "tests.ops.cuda.small_cases",
        ("conv_block/cuda/fwd_dgrad.cu", HOPPER),
        {native_cuda.HOPPER: "all"},
    ),
    WGRAD: Program(
        "tests.ops.conv_block.cuda.hopper_wgrad",
        ("conv_block/cuda/wgrad.cu", HOPPER, "activation/cuda.cu"),
    ),
    BACKWARD: Program(
        "tests.ops.cuda.small_cases",
        ("conv_block/cuda/fwd_dgrad.cu", "conv_block/cuda/wgrad.cu", HOPPER, "activation/cuda.cu"),
        {native_cuda.HOPPER: "all"},
    ),
}
KEPT = "dilation 8, three chunks forward"  # its blocks write rows of zeros
# A schedule by priority and one by chance; test_hopper.py runs another. No address depends on them, and the thread
# sanitizer finds accesses without an order in any of them. float16 takes bfloat16's code, so only the plain build has
# it in every run.
SEEDS = {"plain": "1,2", "address": "1", "thread": "1"}
# The case that meets the defects.
MET = {GATHER: "stride 2, two sources forward", WGRAD: "several tiles", BACKWARD: "72 channels out"}


def launched(program: str, sanitizer: str, cases: list[str]) -> set[str]:
    """The kernels of bfloat16 cases that ran clean."""
    return PROGRAMS[program].launched(sanitizer, "bfloat16", cases, SEEDS[sanitizer])


@pytest.mark.parametrize("sanitizer", SEEDS)
def test_gather_runs_clean(sanitizer: str) -> None:
    found = launched(GATHER, sanitizer, [MET[GATHER], "transposed 2d forward", KEPT])
    assert {"hopper_gather_kernel<bf16, 1>", "pack_hopper_kernel<bf16>", "hopper_strip_kernel<bf16>"} <= found


@pytest.mark.parametrize("sanitizer", SEEDS)
def test_wgrad_runs_clean(sanitizer: str) -> None:
    assert "hopper_wgrad_kernel<bf16, 3>" in launched(WGRAD, sanitizer, [MET[WGRAD], "dilation 8"])


@pytest.mark.parametrize("sanitizer", SEEDS)
def test_wgrad_reads_dgrads_strips_clean(sanitizer: str) -> None:
    found = launched(BACKWARD, sanitizer, [MET[BACKWARD], "transposed 2d"])
    assert {"hopper_gather_kernel<bf16, 1>", "hopper_wgrad_kernel<bf16, 3>"} <= found


@pytest.mark.parametrize("sanitizer", SEEDS if EVERY else ["plain"])
def test_float16_runs_clean(sanitizer: str) -> None:
    cases, seeds = [MET[GATHER], "transposed 2d forward", KEPT], SEEDS[sanitizer]
    found = PROGRAMS[GATHER].launched(sanitizer, "float16", cases, seeds)
    found |= PROGRAMS[WGRAD].launched(sanitizer, "float16", ["large mean"], "1")
    assert {"hopper_gather_kernel<half, 1>", "pack_hopper_kernel<half>", "hopper_wgrad_kernel<half, 3>"} <= found


class Defect(NamedTuple):
    """What is planted, the kernel that meets it, what is said, and by which build."""

    plant: Plant
    program: str
    message: str
    finder: str = "plain"


UNBROUGHT, WRONG_Y, WRONG_DWEIGHT = "no bulk copy has brought", "AssertionError: y", "dweight: max error"
DEFECTS = {
    "LBO and SBO exchanged": Defect(
        Plant(GATHER, "of_patch, g.strips.columns * 16);", "g.strips.columns * 16, of_patch);"), GATHER, UNBROUGHT
    ),
    "weights not packed in planes": Defect(
        Plant(GATHER, "(tile * kStripPlanes + k % kStripChunk / kVector) * columns + column % columns",
              "tile * kStripPlanes * columns + column % columns * kStripPlanes + k % kStripChunk / kVector"),
        *(GATHER, WRONG_Y),
    ),
    "wrong offset of a k16": Defect(Plant(GATHER, "a + k * 2 * (plane >> 4)", "a + k * (plane >> 4)"), GATHER, WRONG_Y),
    "off-by-one halo": Defect(
        Plant(STRIPS, "(strip * kStripColumns + column + s.low[1])", "(strip * kStripColumns + column + s.low[1] + 1)"),
        *(GATHER, WRONG_Y),
    ),
    "a halo that is too narrow": Defect(
        Plant(STRIPS, "(whole ? 0 : high[1] - low[1]);", "(whole ? 0 : high[1] - low[1] - 1);"), GATHER, WRONG_Y
    ),
    "a phase of the stride forgotten": Defect(
        Plant(STRIPS, "group.pieces = int16_t(s.step[1]);", ";"), GATHER, WRONG_Y
    ),
    "a tile's row forgotten": Defect(
        Plant(PIPELINE, "at += (tile.h + group.row + rows", "at += (group.row + rows"), WGRAD, WRONG_DWEIGHT
    ),
    "wrong parity of a consumer": Defect(
        Plant(PIPELINE, "mbarrier_wait(full + stage, parity);", "mbarrier_wait(full + stage, parity ^ 1);"),
        *(GATHER, UNBROUGHT),
    ),
    "a stage refilled before it is read": Defect(
        Plant(PIPELINE, "mbarrier_wait(empty + stage, parity ^ 1);", ""), GATHER, "mbarrier"
    ),
    "a stage released for another": Defect(
        Plant(PIPELINE, "empty + (stage == 0 ? stages : stage) - 1", "empty + stage"), GATHER, "deadlock"
    ),
    "a stage read too early": Defect(Plant(GATHER, "        weights.wait();", ""), GATHER, UNBROUGHT),
    "a patch read too early": Defect(Plant(GATHER, "      patches.wait();", ""), GATHER, UNBROUGHT),
    "fewer bytes announced": Defect(
        Plant(WGRAD, "ring.announce(bytes + w.q_bytes())", "ring.announce(bytes)"), WGRAD, "deadlock"
    ),
    "fence removed": Defect(Plant(GATHER, "        wgmma_fence();", ""), GATHER, "without a wgmma.fence"),
    "last group not waited for": Defect(
        Plant(GATHER, "  wgmma_wait<0>();", "  wgmma_wait<1>();"), GATHER, "with wgmma not waited for"
    ),
    "epilogue before the other consumer has read": Defect(
        Plant(GATHER, "  sync_group(kConsumers, kConsumers * 128);  // both", "  // both"),
        *(GATHER, "data race", "thread"),
    ),
    "the other consumer's sums read too early": Defect(
        Plant(GATHER, "  sync_group(kConsumers, kConsumers * 128);\n", ""), GATHER, "data race", "thread"
    ),
    "too many registers asked for": Defect(
        Plant(STRIPS, "kProducerRegisters = 40", "kProducerRegisters = 56"), GATHER, "more registers than"
    ),
    "rows of zeros never written": Defect(
        Plant(GATHER, "if (live && g.keeps_zeros) zero_rows", "if (false) zero_rows"), GATHER, UNBROUGHT
    ),
    "zeros without a proxy fence": Defect(Plant(GATHER, "  async_proxy_fence();", ""), GATHER, UNBROUGHT),
    "the barrier after zeros and mbarriers removed": Defect(
        Plant(GATHER, "  __syncthreads();\n\n  int index", "\n  int index"),
        *(GATHER, "an mbarrier not initialised", "thread"),
    ),
    "zeros written over the input": Defect(
        Plant(GATHER, "if (at >= before) at +=", "if (at > before) at +="), GATHER, UNBROUGHT
    ),
    "a row kept that is not of zeros": Defect(
        Plant(STRIPS, "first = max(0, -at);", "first = max(0, 1 - at);"), GATHER, WRONG_Y
    ),
    "rows kept where patches differ": Defect(
        Plant(GATHER_PLAN, "group.row != first.row || group.rows != first.rows", "false"), GATHER, WRONG_Y
    ),
    "barriers not initialised": Defect(Plant(WGRAD, "    ring.start();", ""), WGRAD, "not initialised"),
    "wgrad: LBO and SBO exchanged": Defect(
        Plant(WGRAD, "row, w.taps.plane(w.rows) * 16);", "w.taps.plane(w.rows) * 16, row);"), WGRAD, WRONG_DWEIGHT
    ),
    "wgrad: Q's LBO and SBO exchanged": Defect(
        Plant(WGRAD, "q_row * 16, w.q_plane() * 16);", "w.q_plane() * 16, q_row * 16);"),
        *(WGRAD, WRONG_DWEIGHT),
    ),
    "wgrad: a tap's shift forgotten": Defect(Plant(WGRAD, "a + shift[i] + k", "a + k"), WGRAD, WRONG_DWEIGHT),
    "wgrad: fence removed": Defect(Plant(WGRAD, "    wgmma_fence();", ""), WGRAD, "without a wgmma.fence"),
    "wgrad: the halo of dgrad's strips multiplied": Defect(
        Plant(WGRAD, "kConsumers * patch - w.columns.low[1] * 16", "kConsumers * patch"), BACKWARD, WRONG_DWEIGHT
    ),
    "wgrad: the rows above dgrad's strips copied": Defect(
        Plant(WGRAD, "(tile.h - s.low[0]) * s.columns", "tile.h * s.columns"), BACKWARD, WRONG_DWEIGHT
    ),
    "wgrad: dgrad's strips overwritten": Defect(
        Plant("conv_block/cuda/plan/wgrad_plan.cuh", "  workspace.take(choose_given_strips(conv, plan));",
              "  choose_given_strips(conv, plan);"),
        *(BACKWARD, WRONG_DWEIGHT),
    ),
    "wgrad: dead patches not zeroed": Defect(
        Plant(PIPELINE, ": s.frames();", ": tile.n * s.in_size[0];"), WGRAD, WRONG_DWEIGHT
    ),
}  # fmt: skip
ELSEWHERE = {  # the cases that meet these; MET for the others
    **dict.fromkeys(
        ("rows of zeros never written", "zeros without a proxy fence", "the barrier after zeros and mbarriers removed"),
        KEPT,
    ),
    "zeros written over the input": KEPT,
    "a row kept that is not of zeros": KEPT,
    "rows kept where patches differ": "stride 2, four chunks forward",
    "a tile's row forgotten": "dilation 16",
    "wgrad: dead patches not zeroed": "3d, frames alone",
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    plant, program, message, finder = DEFECTS[name]
    PROGRAMS[program].must_find(plant, finder, message, ELSEWHERE.get(name, MET[program]))
