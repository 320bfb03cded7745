// The second stage of the reductions of cuda_reduce.cuh. Whatever includes it compiles its kernels.
#pragma once
#include "cuda_reduce.cuh"

namespace fi {

constexpr int kFoldChannels = 4;  // per block of the second stage, one warp each

// mean[c] and var[c] (biased) from the partials of `blocks` blocks.
static __global__ void __launch_bounds__(kThreads)
    finish_moments_kernel(Partials in, int blocks, float* mean, float* var) {
  int channel = blockIdx.x * kFoldChannels + threadIdx.x / 32;
  Moments total;
  if (channel < in.channels)
    for (int i = threadIdx.x % 32; i < blocks; i += 32) {
      float4 v = in.value[size_t(i) * in.channels + channel];
      total = merge(total, Moments{in.count[i], v.z, v.x, v.y});
    }
  for (int apart = 1; apart < 32; apart *= 2) total = merge_lanes(total, apart);
  if (channel < in.channels && threadIdx.x % 32 == 0) {
    mean[channel] = total.base + total.mean;
    var[channel] = total.m2 / total.count;
  }
}

// first[c] and second[c] are the sums over blocks; scaled[c] = -scale[c] * first[c]. Each may be null.
static __global__ void __launch_bounds__(kThreads)
    finish_sums_kernel(Partials in, int blocks, const float* scale, float* scaled, float* second, float* first) {
  int channel = blockIdx.x * kFoldChannels + threadIdx.x / 32;
  Sum lane_first, lane_second;
  if (channel < in.channels)
    for (int i = threadIdx.x % 32; i < blocks; i += 32) {
      float4 v = in.value[size_t(i) * in.channels + channel];
      lane_first.add(v.x), lane_second.add(v.y);
    }
  float sum = lane_first.value, other = lane_second.value;
  for (int apart = 1; apart < 32; apart *= 2) {
    sum += __shfl_xor_sync(~0u, sum, apart);
    other += __shfl_xor_sync(~0u, other, apart);
  }
  if (channel < in.channels && threadIdx.x % 32 == 0) {
    if (first) first[channel] = sum;
    if (second) second[channel] = other;
    if (scaled) scaled[channel] = -scale[channel] * sum;
  }
}

}  // namespace fi
