// Runs CUDA C++ kernels on the CPU, for tests. The same .cu files that nvcc compiles are compiled by g++ with
// -DFI_EMULATED -x c++; every CUDA thread of a block becomes a fiber, and the blocks of a grid run one after another.
//
//   language.h      keywords, vector and 16-bit float types, the few runtime calls that the launch code makes
//   sanitizers.h    what address and thread sanitizer must be told about fibers
//   fibers.h        a fiber: its stack and the switch to another
//   scheduler.h     a block's fibers, __syncthreads, warp collectives, the launch
//   intrinsics.h    shuffles, ballots and arithmetic
//   async_copy.h    cp.async: a copy that lands only when it is waited for
//   tensor_core.h   ldmatrix, mma.sync m16n8k16 and (tf32) m16n8k8
//   mbarrier.h      mbarriers with phases, and bulk copies that land only when their barrier is waited for
//   wgmma.h         wgmma with A from registers: accumulators are NaN, and neither A nor B may change, until waited for
//
// Environment: FI_SEED=n picks the schedule. Even n: every step runs any runnable thread. Odd n: warps have random
// priorities, renewed at each barrier, and the first runs as far as it can. FI_SHARED=n: a block has at most n bytes of
// shared memory, in place of sm_80's 166912; kernels that run on sm_90 alone have 232448.
//
// It stops with a message and abort() on: barriers that threads of a block meet at different lines, a warp collective
// that lanes meet at different lines, a deadlock, a misaligned cp.async or ldmatrix, a thread that ends with copies
// under way, the misuses that mbarrier.h and wgmma.h name, and a launch that the hardware would refuse. Shared memory
// starts as NaN and is one heap block a launch, so address sanitizer sees its ends; the arenas of
// common/cuda_language.cuh put poisoned gaps between its parts.
//
// Limits: x86-64 and g++. Warp collectives need all lanes of the warp. Blocks do not run at the same time, so races
// between blocks are not seen, nor is anything about speed, occupancy, memory order between blocks, streams and
// graphs. A warpgroup is the first, second, ... four warps of a block; only barriers that one block's own threads wait
// for exist, no clusters, no tensor maps, and of wgmma's B only the 128-byte swizzle with k contiguous. What the PTX
// manual says of wgmma was read, not measured: tests/gpu asks a GPU whether it is so. Sums of a tensor-core instruction
// are taken in order, the hardware's order is its own. Only what the kernels here use exists.
#pragma once
// clang-format off: each file uses those before it
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
