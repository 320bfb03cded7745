// Eight adjacent channels of a map: the unit of all reads and writes.
#pragma once
#include "cuda_language.cuh"

namespace fi {

// A float32 factor of a tf32 product. It is rounded to ten mantissa bits once, on its way into shared memory, because
// the tensor cores would truncate.
struct Tf32 {
  uint32_t bits;
};

// The map's type for a shared-memory type T.
template <class T>
struct MapOf {
  using type = T;
};
template <>
struct MapOf<Tf32> {
  using type = float;
};
template <class T>
using Map = typename MapOf<T>::type;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ Tf32 from_float<Tf32>(float v) {
  return {round_to_tf32(v)};
}

// Converts two values in one instruction where the chip supports it.
template <class T>
__device__ __forceinline__ void round_pair(T* to, float first, float second) {
  to[0] = from_float<T>(first), to[1] = from_float<T>(second);
}
#ifndef FI_EMULATED
template <>
__device__ __forceinline__ void round_pair(__nv_bfloat16* to, float first, float second) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(first, second);
}
template <>
__device__ __forceinline__ void round_pair(__half* to, float first, float second) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(first, second);
}
#endif

constexpr int kVector = 8;

template <class T>
struct alignas(16) Vector {
  T v[kVector];
};

// Eight values rounded to the map's type.
template <class T>
__device__ __forceinline__ Vector<T> rounded(const float (&value)[kVector]) {
  Vector<T> result;
#pragma unroll
  for (int i = 0; i < kVector; i += 2) round_pair(result.v + i, value[i], value[i + 1]);
  return result;
}

template <class T>
__device__ __forceinline__ Vector<T> zero_vector() {
  Vector<T> result;
#pragma unroll
  for (int i = 0; i < int(sizeof(result) / 16); ++i) reinterpret_cast<uint4*>(&result)[i] = make_uint4(0, 0, 0, 0);
  return result;
}

// Reads `valid` channels from p and zeros for the rest. `aligned` (constant per map): p is 16-byte aligned and valid is
// 8.
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* p, int valid, bool aligned) {
  Vector<T> result;
  if (aligned) {
#pragma unroll
    for (int i = 0; i < int(sizeof(result) / 16); ++i)
      reinterpret_cast<uint4*>(&result)[i] = reinterpret_cast<const uint4*>(p)[i];
    return result;
  }
  result = zero_vector<T>();
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    if (i < valid) result.v[i] = p[i];
  return result;
}

template <class T>
__device__ __forceinline__ void store_vector(T* p, const Vector<T>& value, int valid, bool aligned) {
  if (aligned) {
#pragma unroll
    for (int i = 0; i < int(sizeof(value) / 16); ++i)
      reinterpret_cast<uint4*>(p)[i] = reinterpret_cast<const uint4*>(&value)[i];
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    if (i < valid) p[i] = value.v[i];
}

}  // namespace fi
