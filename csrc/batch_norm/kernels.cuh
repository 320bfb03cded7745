// batch_norm: the per-channel part of batch norm between two convolutions. fastinpaint/ops/batch_norm/reference.py has
// the equations.
#pragma once
#include "common/cuda_launch.cuh"
#include "common/cuda_vector.cuh"

namespace fi {

constexpr int kFloat64 = 4;     // beside the dtypes of maps
constexpr int kChannels = 128;  // one per thread; thread sanitizer supports at most 255

// One value per channel, of any dtype; data may be null.
struct PerChannel {
  void* data;
  int dtype;

  __device__ double at(int c) const {
    if (dtype == kFloat64) return static_cast<const double*>(data)[c];
    if (dtype == kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(data)[c]);
    if (dtype == kFloat16) return to_float(static_cast<const __half*>(data)[c]);
    return static_cast<const float*>(data)[c];
  }

  __device__ void put(int c, double value) const {
    if (dtype == kFloat64)
      static_cast<double*>(data)[c] = value;
    else if (dtype == kBFloat16)
      static_cast<__nv_bfloat16*>(data)[c] = from_float<__nv_bfloat16>(float(value));
    else if (dtype == kFloat16)
      static_cast<__half*>(data)[c] = from_float<__half>(float(value));
    else
      static_cast<float*>(data)[c] = float(value);
  }
};

struct BatchNorm {
  PerChannel weight, bias, running_mean, running_var, dweight;
  const float *mean, *var, *dscale;
  const float* total;  // number of values behind mean and var; null: `count`
  int64_t* tracked;    // batches so far, or null
  float *scale, *shift, *dvar;
  double count, momentum;  // momentum < 0: 1 / tracked
  float eps;
  int channels;
};

__device__ inline float rstd_of(const BatchNorm& p, int c) { return 1.0f / sqrtf(p.var[c] + p.eps); }

// One block for all channels: all threads read `tracked` before one of them increments it.
__global__ void __launch_bounds__(kChannels) batch_norm_fwd_kernel(const __grid_constant__ BatchNorm p) {
  int64_t tracked = p.tracked ? *p.tracked + 1 : 0;
  __syncthreads();
  if (p.tracked && threadIdx.x == 0) *p.tracked = tracked;
  double momentum = p.momentum < 0 ? 1.0 / double(tracked) : p.momentum;
  double count = p.total ? double(*p.total) : p.count;
  for (int c = threadIdx.x; c < p.channels; c += kChannels) {
    float rstd = rstd_of(p, c);
    p.scale[c] = p.weight.data ? float(p.weight.at(c)) * rstd : rstd;
    p.shift[c] = p.bias.data ? float(p.bias.at(c)) : 0.0f;
    if (!p.running_mean.data) continue;
    double mean = p.running_mean.at(c), var = p.running_var.at(c);
    p.running_mean.put(c, mean + momentum * (double(p.mean[c]) - mean));
    p.running_var.put(c, var + momentum * (double(p.var[c]) * (count / (count - 1)) - var));
  }
}

// One thread per channel; dweight may be null.
__global__ void __launch_bounds__(kChannels) batch_norm_bwd_kernel(const __grid_constant__ BatchNorm p) {
  int c = blockIdx.x * kChannels + threadIdx.x;
  if (c >= p.channels) return;
  float rstd = rstd_of(p, c), d = p.dscale[c] * rstd;
  p.dvar[c] = -0.5f * d * rstd * rstd * (p.weight.data ? float(p.weight.at(c)) : 1.0f);
  if (p.dweight.data) p.dweight.put(c, d);
}

}  // namespace fi
