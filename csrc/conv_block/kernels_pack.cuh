// Weights as the gathering kernels read them: [tap][k_padded][n_padded], the channels of each source padded to whole
// chunks along k and to eight along n, zero in the padding. A thread writes one value.
#pragma once
#include "conv_block/kernels_params.cuh"

namespace fi {

struct PackSide {  // the channels along one side, in up to two parts
  int channels[2], padded[2];
  int64_t stride;
};

struct PackParams {
  int kernel[3];
  int64_t tap_stride[3];
  PackSide k, n;
  bool pairs;  // thin: k is (tap entry, channel of four of two neighbouring taps); see kernels_thin.cuh
};

// The channel that a padded index stands for, or -1.
__device__ inline int unpadded(const PackSide& side, int index) {
  int part = index >= side.padded[0];
  int channel = part ? index - side.padded[0] : index;
  return channel < side.channels[part] ? channel + (part ? side.channels[0] : 0) : -1;
}

// The value at a padded k (or -1) and n of a tap, zero in the padding.
template <class T>
__device__ __forceinline__ T packed_value(const T* weight, const PackParams& p, int tap, int k_index, int n_index) {
  int k = unpadded(p.k, k_index), n = unpadded(p.n, n_index);
  if (k < 0 || n < 0) return from_float<T>(0.0f);
  int w = tap % p.kernel[2], h = tap / p.kernel[2] % p.kernel[1], t = tap / p.kernel[2] / p.kernel[1];
  return weight[k * p.k.stride + n * p.n.stride + t * p.tap_stride[0] + h * p.tap_stride[1] + w * p.tap_stride[2]];
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_kernel(const Map<T>* weight, const __grid_constant__ PackParams p,
                                                        T* packed, int taps, int k_padded, int n_padded) {
  int64_t total = int64_t(taps) * k_padded * n_padded;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    int n = int(i % n_padded), row = int(i / n_padded), tap = row / k_padded, k = row % k_padded;
    if (p.pairs) {
      int entries = ceil_div(p.kernel[2], 2), entry = row / kVector;  // along W, of all
      int w = entry % entries * 2 + row % kVector / 4, line = entry / entries;
      bool exists = line < p.kernel[0] * p.kernel[1] && w < p.kernel[2];
      tap = exists ? line * p.kernel[2] + w : 0;
      k = exists ? row % 4 : -1;
    }
    packed[i] = from_float<T>(to_float(packed_value(weight, p, tap, k, n)));
  }
}

}  // namespace fi
