// Runs CUDA C++ kernels on the CPU, for tests. The same .cu files that nvcc compiles are compiled by g++ with
// -DFI_EMULATED -x c++; every CUDA thread of a block becomes a fiber, and the blocks of a grid run one after another.
//
//   language.h      keywords, vector and 16-bit float types, the runtime calls of the launch code
//   sanitizers.h    annotations of fibers for address and thread sanitizer
//   fibers.h        a fiber: its stack and the switch to another
//   scheduler.h     a block's fibers, __syncthreads, warp collectives, the launch
//   intrinsics.h    shuffles, ballots and arithmetic
//   async_copy.h    cp.async: a copy that lands only when it is waited for
//   tensor_core.h   ldmatrix, mma.sync m16n8k16 and (tf32) m16n8k8
//   mbarrier.h      mbarriers with phases, and bulk copies that land only when their barrier is waited for
//   wgmma.h         wgmma with both factors in shared memory: until waited for, accumulators are NaN
//
// Environment. FI_SEED=n selects the schedule. Even n: every step runs any runnable thread. Odd n: warps have random
// priorities, redrawn at each barrier, and the first one runs as far as it can. FI_SHARED=n limits a block to n bytes
// of shared memory instead of sm_80's 166912; kernels for sm_90 only have 232448.
//
// It stops with a message and abort() on: a barrier or warp collective that threads reach at different lines, a
// deadlock, a misaligned cp.async or ldmatrix, a thread that ends with copies in flight, the misuses listed in
// mbarrier.h and wgmma.h, and a launch that the hardware would reject. Shared memory starts as NaN and is one heap
// block per launch, so that address sanitizer detects accesses beyond its ends. The arenas of common/cuda_language.cuh
// put poisoned gaps between its parts.
//
// Limits. x86-64 and g++ only. Warp collectives need all lanes of the warp. Blocks run one after another, so races and
// memory order between blocks, streams, graphs, speed and occupancy cannot be tested. A warpgroup is four consecutive
// warps of a block. Barriers work within a block only; there are no clusters or tensor maps. wgmma's factors have no
// swizzle. The behaviour of wgmma is taken from the PTX manual; tests/gpu compares it with a GPU. Tensor-core sums
// are taken in order; the hardware's order differs. Only what this project's kernels use is implemented.
#pragma once
// clang-format off: each file needs the previous ones
#include "language.h"
#include "sanitizers.h"
#include "fibers.h"
#include "scheduler.h"
#include "intrinsics.h"
#include "async_copy.h"
#include "tensor_core.h"
#include "mbarrier.h"
#include "wgmma.h"
// clang-format on
