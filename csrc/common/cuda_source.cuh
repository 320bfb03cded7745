// A deferred activation, as Source in fastinpaint/ops/types.py, and its value at eight channels of one position:
//
//   z = (x - mean) * (scale_factor * scale) + shift_factor * shift     a = (relu ? max(z, 0) : z) + addend
//
// The gradient G = dy + dmean / M + 2 dvar (y - mean) / M has the same form: x = y, scale = dvar, scale_factor = 2 / M,
// shift = dmean, shift_factor = 1 / M, addend = dy.
#pragma once
#include "cuda_vector.cuh"

namespace fi {

// Part of the C ABI: a plain struct, equal on both sides.
struct Source {
  const void* x;       // [N, T, H, W, C]
  const void* addend;  // as x, or null
  const float* mean;   // [C] or null, with scale and shift
  const float* scale;
  const float* shift;
  float scale_factor, shift_factor;
  int channels;
  int relu;
};

struct alignas(16) ChannelParams {
  float mean[kVector], scale[kVector], shift[kVector];
  float floor;  // of z: 0 with a ReLU, else -inf
};

__host__ __device__ inline bool is_aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Whether every vector of the map can be read in one access.
__host__ __device__ inline bool vectors_aligned(const Source& source) {
  return source.channels % kVector == 0 && is_aligned(source.x) && is_aligned(source.addend);
}

// Parameters of the eight channels from `channel` on, a multiple of eight. Missing channels stay unchanged: zeros that
// stand for them stay zeros.
__device__ __forceinline__ ChannelParams load_params(const Source& source, int channel) {
  int valid = source.mean ? min(kVector, source.channels - channel) : 0;
  bool aligned = valid == kVector && is_aligned(source.mean) && is_aligned(source.scale) && is_aligned(source.shift);
  Vector<float> mean = load_vector(source.mean + channel, valid, aligned);
  Vector<float> scale = load_vector(source.scale + channel, valid, aligned);
  Vector<float> shift = load_vector(source.shift + channel, valid, aligned);
  ChannelParams result;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    result.mean[i] = mean.v[i];
    result.scale[i] = i < valid ? scale.v[i] * source.scale_factor : 1.0f;
    result.shift[i] = shift.v[i] * source.shift_factor;
  }
  result.floor = source.relu ? 0.0f : -INFINITY;
  return result;
}

// Without the addend.
__device__ __forceinline__ float activate(float x, const ChannelParams& params, int i) {
  return max_or_nan((x - params.mean[i]) * params.scale[i] + params.shift[i], params.floor);
}

// adds: whether the source has an addend; otherwise it is not read.
template <class To, class T>
__device__ __forceinline__ Vector<To> activate(const Vector<T>& x, const Vector<T>& addend, const ChannelParams& params,
                                               bool adds) {
  float value[kVector];
  widen(x, value);
#pragma unroll
  for (int i = 0; i < kVector; ++i) value[i] = activate(value[i], params, i);
  if (adds) {
    float more[kVector];
    widen(addend, more);
#pragma unroll
    for (int i = 0; i < kVector; ++i) value[i] += more[i];
  }
  return rounded<To>(value);
}

}  // namespace fi
