// The second stage of wgrad with groups: sums the splits' partials in a fixed order and keeps what is within a group.
//
//   partial  [split][tap][p][q], where q counts from the first column of p's chunk (kernels/wgrad.cuh; depthwise: one
//   q) dweight  contiguous, [group][q][p][tap], q and p within the group
#pragma once
#include "conv_block/cuda/kernels/params.cuh"

namespace fi {

struct ReduceGroups {
  int taps, splits, p_channels, q_columns;  // q_columns: of a partial
  Groups group;                             // n: P's channels per group; k: Q's
  bool depthwise;
};

constexpr int kReduceParts = 8, kReduceValues = kThreads / kReduceParts;  // threads per value; values of a block

constexpr int reduce_groups_bytes() { return shared_part(kThreads * int(sizeof(float))); }

// The partial's column of q = 0 of p's group.
__host__ __device__ inline int group_column(const ReduceGroups& r, int p) {
  return r.depthwise ? 0 : p / r.group.n * r.group.k - r.group.first(p / kChunk * kChunk);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_groups_kernel(const float* partial, const __grid_constant__ ReduceGroups r, T* dweight) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, reduce_groups_bytes());
  float* sums = arena.take<float>(kThreads);  // [part][value]
  int value = threadIdx.x % kReduceValues, part = threadIdx.x / kReduceValues;
  int64_t index = int64_t(blockIdx.x) * kReduceValues + value, total = int64_t(r.taps) * r.p_channels * r.group.k;
  int q = int(index % r.group.k), p = int(index / r.group.k % r.p_channels),
      tap = int(index / r.group.k / r.p_channels);
  float sum = 0;
  if (index < total) {
    int64_t all = int64_t(r.taps) * r.p_channels * r.q_columns;
    const float* from = partial + (int64_t(tap) * r.p_channels + p) * r.q_columns + group_column(r, p) + q;
#pragma unroll 8
    for (int split = part; split < r.splits; split += kReduceParts) sum += from[split * all];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || index >= total) return;
  for (int other = 1; other < kReduceParts; ++other) sum += sums[other * kReduceValues + value];
  int64_t row = int64_t(p / r.group.n) * r.group.k + q;
  dweight[(row * r.group.n + p % r.group.n) * r.taps + tap] = from_float<T>(sum);
}

}  // namespace fi
