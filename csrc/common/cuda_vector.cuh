// Eight adjacent channels of a map: the unit of all reads and writes.
#pragma once
#include "cuda_language.cuh"
#ifndef FI_EMULATED
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda_ptx.cuh"
#endif

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

constexpr int kVector = 8;

template <class T>
struct alignas(16) Vector {
  T v[kVector];
};

// 16-bit channels are read and written in pairs, as 32-bit words. Through `v` the compiler would keep each channel in a
// register of its own: it would take words apart and put them together again on every load and store.
template <class T>
constexpr int kWords = kVector * int(sizeof(T)) / 4;

template <class T>
__device__ __forceinline__ uint32_t& word(Vector<T>& x, int i) {
  return reinterpret_cast<uint32_t*>(&x)[i];
}
template <class T>
__device__ __forceinline__ uint32_t word(const Vector<T>& x, int i) {
  return reinterpret_cast<const uint32_t*>(&x)[i];
}

// The two channels of a word, and a word of two channels.
template <class T>
__device__ __forceinline__ float2 pair_to_float(uint32_t word) {
  const T* v = reinterpret_cast<const T*>(&word);
  return make_float2(to_float(v[0]), to_float(v[1]));
}
template <class T>
__device__ __forceinline__ uint32_t pair_from_float(float first, float second) {
  T v[2] = {from_float<T>(first), from_float<T>(second)};
  return *reinterpret_cast<const uint32_t*>(v);
}
#ifndef FI_EMULATED
template <>
__device__ __forceinline__ float2 pair_to_float<__nv_bfloat16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 pair_to_float<__half>(uint32_t word) {
  float2 pair;
  asm("{.reg .b16 low, high;\n mov.b32 {low, high}, %2;\n cvt.f32.f16 %0, low;\n cvt.f32.f16 %1, high;}"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(word));
  return pair;
}
template <>
__device__ __forceinline__ uint32_t pair_from_float<__nv_bfloat16>(float first, float second) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
template <>
__device__ __forceinline__ uint32_t pair_from_float<__half>(float first, float second) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
#endif

template <class T>
__device__ __forceinline__ void widen(const Vector<T>& x, float (&value)[kVector]) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < kWords<T>; ++i) {
      float2 pair = pair_to_float<T>(word(x, i));
      value[2 * i] = pair.x, value[2 * i + 1] = pair.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) value[i] = to_float(x.v[i]);
  }
}

// Eight values rounded to the map's type.
template <class T>
__device__ __forceinline__ Vector<T> rounded(const float (&value)[kVector]) {
  Vector<T> result;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < kWords<T>; ++i) word(result, i) = pair_from_float<T>(value[2 * i], value[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) result.v[i] = from_float<T>(value[i]);
  }
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
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < kWords<T>; ++i)
      word(result, i) =
          load_half_or_zero(p + 2 * i, 2 * i < valid) | load_half_or_zero(p + 2 * i + 1, 2 * i + 1 < valid) << 16;
  } else {
    result = zero_vector<T>();
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (i < valid) result.v[i] = p[i];
  }
  return result;
}

// An aligned vector of eight channels. A false predicate gives zeros and reads nothing, without a branch.
template <class T>
__device__ __forceinline__ Vector<T> load_or_zero(const T* p, bool predicate) {
  Vector<T> result;
#pragma unroll
  for (int i = 0; i < int(sizeof(result) / 16); ++i)
    reinterpret_cast<uint4*>(&result)[i] = load_or_zero16(reinterpret_cast<const uint4*>(p) + i, predicate);
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
  if constexpr (sizeof(T) == 2) {
    uint16_t* to = reinterpret_cast<uint16_t*>(p);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (i < valid) to[i] = uint16_t(word(value, i / 2) >> i % 2 * 16);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (i < valid) p[i] = value.v[i];
  }
}

}  // namespace fi
