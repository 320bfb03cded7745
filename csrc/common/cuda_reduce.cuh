// Two-stage channel reductions: each block reduces its rows to a few floats per channel ("partials"), and a second
// kernel reduces the partials of all blocks (cuda_finish.cuh). The order is fixed, so equal inputs give equal bits.
#pragma once
#include "cuda_moments.cuh"
#include "cuda_vector.cuh"

namespace fi {

constexpr int kThreads = 128;  // per block; thread sanitizer supports at most 255 fibers

// A block's results, [blocks][channels]: two sums, or the moments' mean, m2 and base, with float count[blocks].
struct Partials {
  float4* value;
  float* count;
  int channels;
};

// A compensated sum, whose error does not grow with the number of terms.
struct Sum {
  float value = 0, lost = 0;
  __device__ __forceinline__ void add(float term) {
    float exact = term - lost, next = value + exact;
    lost = (next - value) - exact;
    value = next;
  }
};

// Two sums, or the moments' mean, m2 and base, of each of the thread's eight channels.
struct Fold {
  float first[kVector] = {}, second[kVector] = {}, base[kVector] = {};

  // Adds the count-th value of each channel to the moments.
  __device__ __forceinline__ void add_moments(const float (&value)[kVector], float count) {
    float inverse = __frcp_rn(count);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (count == 1) base[i] = value[i];
      add_value(first[i], second[i], value[i] - base[i], inverse);
    }
  }
};

// Shared memory of fold_block in bytes.
constexpr int fold_bytes() {
  return shared_part(kThreads * kVector * int(sizeof(float4))) + shared_part(kThreads * int(sizeof(float)));
}

// The kThreads threads that work together in an epilogue: a whole block, or one of a block's warpgroups.
struct WholeBlock {
  __device__ unsigned thread() const { return threadIdx.x; }
  __device__ void sync() const { __syncthreads(); }
};
struct Warpgroup {
  int index;
  __device__ unsigned thread() const { return threadIdx.x % kThreads; }
  __device__ void sync() const { sync_group(index, kThreads); }
};

// Merged with those of the lane `apart` away.
__device__ __forceinline__ Moments merge_lanes(const Moments& mine, int apart) {
  return merge(mine, Moments{__shfl_xor_sync(~0u, mine.count, apart), __shfl_xor_sync(~0u, mine.base, apart),
                             __shfl_xor_sync(~0u, mine.mean, apart), __shfl_xor_sync(~0u, mine.m2, apart)});
}

// Reduces over the team's threads: thread = row lane * groups + group, where a group is eight channels. Moments are
// those of `count` values.
template <bool moments, class Team = WholeBlock>
__device__ void fold_block(SharedArena arena, const Fold& mine, float count, int groups, int first_channel, int block,
                           const Partials& out, Team team = {}) {
  float4* values = arena.take<float4>(kThreads * kVector);  // [row lane][channel]
  float* counts = arena.take<float>(kThreads);              // [row lane]
  int columns = groups * kVector, lanes = kThreads / groups;
  int group = team.thread() % groups, lane = team.thread() / groups;
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    values[lane * columns + group * kVector + i] = make_float4(mine.first[i], mine.second[i], mine.base[i], 0);
  if (group == 0) counts[lane] = count;
  team.sync();
  int parts = columns < kThreads ? kThreads / columns : 1, part = team.thread() % parts;  // threads of a channel
  for (int column = team.thread() / parts; column < columns; column += kThreads / parts) {
    Moments total;
    Sum first, second;
    for (int i = part; i < lanes; i += parts) {
      float4 v = values[i * columns + column];
      if (moments) total = merge(total, Moments{counts[i], v.z, v.x, v.y});
      first.add(v.x), second.add(v.y);
    }
    float sum = first.value, other = second.value;
    for (int apart = 1; apart < parts; apart *= 2) {
      if (moments) total = merge_lanes(total, apart);
      sum += __shfl_xor_sync(~0u, sum, apart), other += __shfl_xor_sync(~0u, other, apart);
    }
    if (part > 0 || first_channel + column >= out.channels) continue;
    out.value[size_t(block) * out.channels + first_channel + column] =
        moments ? make_float4(total.mean, total.m2, total.base, 0) : make_float4(sum, other, 0, 0);
    if (moments && column == 0 && first_channel == 0) out.count[block] = total.count;
  }
}

}  // namespace fi
