"""All kernels under address, undefined-behaviour and thread sanitizer, in several schedules; planted defects are found.

Sanitized libraries run in processes of their own, with the sanitizer's runtime preloaded.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import pytest
import torch

from fastinpaint.ops.conv_block.cuda.abi import describe
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch import native_cuda
from tests.ops.cuda import small_cases
from tests.ops.cuda.planted import DTYPES, EVERY, Program
from tools.inspect import counting, sass
from tools.verify import emulated
from tools.verify.emulated import Plant

CONV = "conv_block/cuda/fwd_dgrad.cu"
WGRAD_KERNEL = "conv_block/cuda/kernels/wgrad_main.cuh"
DEPTHWISE, DEPTHWISE_WGRAD = (f"conv_block/cuda/depthwise/{name}.cuh" for name in ("fwd_dgrad", "wgrad"))
LOAD, WRONG_Y = "conv_block/cuda/kernels/load.cuh", "AssertionError: y"
WGRAD = f"{CONV} conv_block/cuda/wgrad.cu activation/cuda.cu"
SMALL = [
    *small_cases.OTHERS, "stride 2, two sources", "odd channels", "transposed 2d", "dilation 4, dead taps",
    "3 channels in", "4 channels in, 5x5", "depthwise", "depthwise, odd channels", "groups, 5 of 3 to 2",
]  # fmt: skip
WIDE = ["128 columns forward"]  # takes a grid that fills an H200
SEEDS = "1,2"  # a schedule by priority and one by chance (csrc/cuda_on_cpu); test_kernels.py runs another
SMALL_CASES = Program("tests.ops.cuda.small_cases")
ALL = [(SEEDS, "float32,tf32,bfloat16", SMALL), (SEEDS, "bfloat16", WIDE), ("1", "float16", [*SMALL, *WIDE])]
ONCE = [("1", ",".join(DTYPES), SMALL), ("1", ",".join(DTYPES[2:]), WIDE)]
# Schedules, dtypes and cases. No address depends on the schedule, and the thread sanitizer finds races in any. float16
# takes bfloat16's code, with other conversions of values, so only the plain build always has it.
KEPT = {"plain": ALL, "address": [*ONCE, ("1", "bfloat16", ["unequal splits"])], "thread": ONCE}


def documented_kernels() -> set[str]:
    """Of the table that nvcc's library must agree with, without those of the wgmma path (test_hopper.py)."""
    rows = (line.split("|")[1].strip() for line in sass.PAGE.read_text().splitlines() if "| sm_90a |" in line)
    return {name for name in rows if "hopper" not in name}


@pytest.mark.parametrize("sanitizer", KEPT)
def test_every_kernel_runs_clean(sanitizer: str) -> None:
    launched: set[str] = set()
    for seeds, dtypes, cases in KEPT[sanitizer]:
        launched |= SMALL_CASES.launched(sanitizer, dtypes, cases, seeds)
    missing = documented_kernels() - launched
    assert not {name for name in missing if sanitizer == "plain" or EVERY or "half" not in name}


@pytest.mark.parametrize("name", ["stride 2, two sources", "4 channels in, 5x5"])
def test_wgrad_has_blocks_of_two_groups_there(name: str) -> None:
    sources, weight, _, geometry = small_cases.conv_inputs(small_cases.CONVS[name], torch.bfloat16)
    found = counting.Footprint()
    out = output_shape(sources[0].x.shape, weight.shape, geometry)
    conv = describe(sources, weight, geometry, out)
    conv.gradient = native_cuda.CSource(channels=out[1], scale_factor=1, shift_factor=1)
    with emulated.installed():
        assert native_cuda.library().fi_conv_wgrad_footprint(ctypes.byref(conv), ctypes.byref(found)) == 0
    assert found.groups == 2


class Defect(NamedTuple):
    """What is planted, in which sources, which case meets it, and which build must find it, saying what."""

    plant: Plant
    source: str
    case: str
    finder: str
    message: str
    dtype: str = "bfloat16"


DEFECTS = {
    "barrier removed": Defect(
        Plant("conv_block/cuda/kernels/gather.cuh", "      __syncthreads();  // this step's", "      // this step's"),
        *(CONV, "2d forward", "thread", "data race"),
    ),
    "index off by one in global memory": Defect(
        Plant("conv_block/cuda/kernels/epilogue.cuh", "if (h >= tile.rows || w >=", "if (h > tile.rows || w >="),
        *(CONV, "2d forward", "bounds", "heap-buffer-overflow"),
    ),
    "index off by one in shared memory": Defect(
        Plant("conv_block/cuda/kernels/tile.cuh", "(staged + row * pitch", "(staged + (row + 1) * pitch"),
        *(CONV, "2d forward", "bounds", "use-after-poison"),
    ),
    "wrong cp.async wait count": Defect(
        Plant("conv_block/cuda/kernels/gather.cuh", "cp_async_wait<1>();", "cp_async_wait<2>();"),
        *(CONV, "2d forward", "plain", "AssertionError: y"),
    ),
    "misaligned vector load": Defect(
        Plant("common/cuda_source.cuh", "source.channels % kVector == 0 && is_aligned", "is_aligned"),
        *("activation/cuda.cu", "activation", "address", "misaligned address"),
    ),
    "tail mask dropped": Defect(
        Plant("common/cuda_vector.cuh", "if (i < valid) to[i] =", "to[i] ="),
        *("activation/cuda.cu", "activation", "bounds", "heap-buffer-overflow"),
    ),
    "tf32 fragment from the wrong row": Defect(
        Plant("conv_block/cuda/kernels/tile.cuh", "b[1] = from[(t + 4) * pitch", "b[1] = from[(t + 3) * pitch"),
        *(CONV, "2d forward", "plain", "AssertionError: y", "tf32"),
    ),
    "barrier of a group of threads removed": Defect(
        Plant(WGRAD_KERNEL, "    sync_group(thread_group, kThreads);  // this", "    // this"),
        *(WGRAD, "2d", "plain", "AssertionError: dweight"),
    ),
    "sums of a group added before they are there": Defect(
        Plant(WGRAD_KERNEL, "    __syncthreads();\n    if (thread_group", "    if (thread_group"),
        *(WGRAD, "2d", "plain", "AssertionError: dweight"),
    ),
    "parameters of P's channels for Q's": Defect(
        Plant(WGRAD_KERNEL, "params[kVectorsOfP + threadIdx.x", "params[threadIdx.x"),
        *(WGRAD, "2d", "plain", "AssertionError: dweight"),
    ),
    "panel of weights read before it is there": Defect(
        Plant("conv_block/cuda/kernels/pack.cuh", "  __syncthreads();\n", ""),
        *(CONV, "2d forward", "plain", "AssertionError: y"),
    ),
    "tail of a run of weights read": Defect(
        Plant("conv_block/cuda/kernels/pack.cuh", "side.channels[part] * taps - at;", "kVector;"),
        *(CONV, "odd channels forward", "address", "heap-buffer-overflow"),
    ),
    "parameters beyond the last channel read": Defect(
        Plant("common/cuda_source.cuh", "bool aligned = valid == kVector && is_aligned", "bool aligned = is_aligned"),
        *("activation/cuda.cu", "activation", "address", "heap-buffer-overflow"),
    ),
    "bias beyond the last channel read": Defect(
        Plant("conv_block/cuda/kernels/epilogue.cuh", "valid == kVector && is_aligned(segment", "is_aligned(segment"),
        *(CONV, "odd channels forward", "address", "heap-buffer-overflow"),
    ),
    "tiles beyond the last one taken": Defect(
        Plant(WGRAD_KERNEL, "end = min(w.tiles, (split + 1) * w.tiles_each)", "end = (split + 1) * w.tiles_each"),
        *(WGRAD, "unequal splits", "address", "heap-buffer-overflow"),
    ),
    "wrong half of a tile traded between lanes": Defect(
        Plant("conv_block/cuda/kernels/wgrad.cuh", "odd ? d[0] : d[2], 1)", "odd ? d[2] : d[0], 1)"),
        *(WGRAD, "2d", "plain", "AssertionError: dweight"),
    ),
    "positions outside the input loaded": Defect(
        Plant(LOAD, "load_or_zero(x + offset[i], to.inside[i] && aligned)", "load_or_zero(x + offset[i], aligned)"),
        *(CONV, "2d forward", "address", "AddressSanitizer: heap-"),  # what lies there differs
    ),
    "odd channels loaded as whole vectors": Defect(
        Plant(LOAD, "to.inside[i] && aligned);\n    }", "to.inside[i]);\n    }"),
        *(CONV, "odd channels forward", "address", "misaligned address"),
    ),
    "positions outside the input activated": Defect(
        Plant(LOAD, "from.inside[i] ? activate<T>", "true ? activate<T>"), *(CONV, "2d forward", "plain", WRONG_Y)
    ),
    "addend left out": Defect(
        Plant(LOAD, "adds = source.addend;", "adds = false;"),
        *(CONV, "stride 2, two sources forward", "plain", WRONG_Y),
    ),
    "every source with a ReLU": Defect(
        Plant("common/cuda_source.cuh", "source.relu ? 0.0f : -INFINITY", "0.0f"),
        *(WGRAD, "2d", "plain", "AssertionError: "),
    ),
    "channels of a word exchanged": Defect(
        Plant("common/cuda_vector.cuh", "= {from_float<T>(first), from_float<T>(second)};",
              "= {from_float<T>(second), from_float<T>(first)};"),
        *(CONV, "2d forward", "plain", WRONG_Y),
    ),
    "rows of another lane": Defect(
        Plant("conv_block/cuda/kernels/tile.cuh", "__shfl_sync(~0u, row, lane)", "__shfl_sync(~0u, row, lane ^ 1)"),
        *(CONV, "2d forward", "plain", WRONG_Y),
    ),
    "depthwise: a patch read before it is complete": Defect(
        Plant(DEPTHWISE, "        __syncthreads();  // the patch and the weights are complete\n", ""),
        *(CONV, "depthwise forward", "thread", "data race"),
    ),
    "depthwise: the next position's vector": Defect(
        Plant(DEPTHWISE, "window[(i + k) % kAdjacent][c]", "window[(i + k + 1) % kAdjacent][c]"),
        *(CONV, "depthwise forward", "plain", WRONG_Y),
    ),
    "depthwise: taps apart taken for a run": Defect(
        Plant("conv_block/cuda/kernels/gather.cuh", "live[i].x != live[i - 1].x + 1", "false"),
        *(CONV, "depthwise forward", "plain", WRONG_Y),
    ),
    "depthwise: weights beyond the last channel": Defect(
        Plant(DEPTHWISE, "exists ? to_float(weight[at]) : 0.0f", "to_float(weight[at])"),
        *(CONV, "depthwise, odd channels forward", "address", "heap-buffer-overflow"),
    ),
    "depthwise: a tap's sums overwritten while they are read": Defect(
        Plant(DEPTHWISE_WGRAD, "    __syncthreads();  // the previous tap's sums have been read\n", ""),
        *(WGRAD, "depthwise", "thread", "data race"),
    ),
    "depthwise: slots of other entries added": Defect(
        Plant(DEPTHWISE_WGRAD, "(entry * slots + slot) * kChunk", "(slot * slots + entry) * kChunk"),
        *(WGRAD, "depthwise", "plain", "AssertionError: dweight"),
    ),
    "groups: weights of other groups": Defect(
        Plant("conv_block/cuda/kernels/pack.cuh", "k / p.group.k != n / p.group.n", "false"),
        *(CONV, "groups of 4 forward", "plain", WRONG_Y),
    ),
    "groups: Q from the first channel on": Defect(
        Plant(WGRAD_KERNEL, "read.channel += p.group.first(rows.channel)", "read.channel += 0"),
        *(WGRAD, "groups of 24, stride 2", "plain", "AssertionError: dweight"),
    ),
    "accumulator not cleared": Defect(
        Plant("conv_block/cuda/kernels/gather.cuh", "Accumulators<BN> acc = {};", "Accumulators<BN> acc;"),
        *(CONV, "2d forward", "plain", "AssertionError: y"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    defect = DEFECTS[name]
    program = SMALL_CASES._replace(sources=tuple(defect.source.split()))
    program.must_find(defect.plant, defect.finder, defect.message, defect.case, defect.dtype)


def test_a_plant_must_match() -> None:
    with pytest.raises(ValueError, match="must occur once"):
        emulated.build(plants=[Plant("common/cuda_vector.cuh", "no such text", "")])
