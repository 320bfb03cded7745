// Vectors of FI_BYTES bytes for the sources with simd in their names, and loads and stores of each storage type.
//
// Storage is float, double or Bf16; arithmetic is in float (double for double). Everything is in an unnamed namespace:
// the same header is compiled for several instruction sets, and no copy may be taken for another by the linker.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>  // the other takes a second to read
#endif

namespace {

// Of processors without AVX2, on which `auto` leaves a model as it is: kernels need not be fast, and are compiled for
// the general case only.
#if defined(FI_HAS_AVX) && FI_BYTES == 16
constexpr bool kGeneralOnly = true;
#else
constexpr bool kGeneralOnly = false;
#endif

typedef float vfloat __attribute__((vector_size(FI_BYTES)));
typedef double vdouble __attribute__((vector_size(FI_BYTES)));
typedef float vfloat_u __attribute__((vector_size(FI_BYTES), aligned(4), may_alias));
typedef double vdouble_u __attribute__((vector_size(FI_BYTES), aligned(8), may_alias));
typedef uint32_t vbits __attribute__((vector_size(FI_BYTES)));
typedef uint16_t vhalf __attribute__((vector_size(FI_BYTES / 2)));
typedef uint16_t vhalf_u __attribute__((vector_size(FI_BYTES / 2), aligned(2), may_alias));

struct Bf16 {
  uint16_t bits;
};

inline vfloat load(const float* p) { return *reinterpret_cast<const vfloat_u*>(p); }
inline vdouble load(const double* p) { return *reinterpret_cast<const vdouble_u*>(p); }
inline vfloat load(const Bf16* p) {
  const vhalf half = *reinterpret_cast<const vhalf_u*>(p);
  return (vfloat)(__builtin_convertvector(half, vbits) << 16);
}

inline void store(float* p, vfloat v) { *reinterpret_cast<vfloat_u*>(p) = v; }
inline void store(double* p, vdouble v) { *reinterpret_cast<vdouble_u*>(p) = v; }
// Past the caches, to an address that is a multiple of FI_BYTES; `end_stream` before others read it.
inline void stream(float* p, vfloat v) {
#if FI_BYTES == 64
  _mm512_stream_ps(p, (__m512)v);
#elif FI_BYTES == 32
  _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)v);
#else
  store(p, v);
#endif
}
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
// bfloat16 in the low half of each lane. Rounds to nearest even; a NaN stays a NaN whatever its payload.
inline vbits rounded(vfloat v) {
#if defined(__AVX512BF16__)
  return (vbits)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  const vbits bits = (vbits)v;
  const vbits nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : nearest;
#endif
}
inline void store(Bf16* p, vfloat v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  *reinterpret_cast<vhalf_u*>(p) = __builtin_convertvector(rounded(v), vhalf);
#endif
}
// As many floats as doubles fit a vector, widened and rounded.
typedef float vhalf_float __attribute__((vector_size(FI_BYTES / 2)));
typedef float vhalf_float_u __attribute__((vector_size(FI_BYTES / 2), aligned(4), may_alias));
inline vdouble load_double(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const vhalf_float_u*>(p), vdouble);
}
inline void store_rounded(float* p, vdouble v) {
  *reinterpret_cast<vhalf_float_u*>(p) = __builtin_convertvector(v, vhalf_float);
}
inline float to_float(float v) { return v; }
inline float to_float(Bf16 v) {
  const uint32_t bits = uint32_t{v.bits} << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}
// The value as it is read back from storage.
inline vfloat stored(const float*, vfloat v) { return v; }
inline vfloat stored(const Bf16*, vfloat v) { return (vfloat)(rounded(v) << 16); }

// Two bfloat16 values, of which the first is in the low half: a term of the products of `product.h`.
struct Pair {
  uint32_t bits;
};
typedef uint32_t vbits_u __attribute__((vector_size(FI_BYTES), aligned(4), may_alias));
inline vbits load(const Pair* p) { return *reinterpret_cast<const vbits_u*>(p); }

// Two rounded vectors, and the pairs of two such: the first of each pair is `first`'s.
#if defined(__AVX512BF16__)
struct Two {
  __m512i both;
};
inline Two round_two(vfloat low, vfloat high) { return {(__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low)}; }
// Values begin, begin + 1, ... of both, side by side.
inline __m512i interleave(const Two& first, const Two& second, int begin) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i of_first = _mm512_add_epi32(lanes, _mm512_set1_epi32(begin));
  const __m512i of_second = _mm512_slli_epi32(_mm512_add_epi32(of_first, _mm512_set1_epi32(32)), 16);
  return _mm512_permutex2var_epi16(first.both, _mm512_or_si512(of_first, of_second), second.both);
}
inline void store_pairs(Pair* low, const Two& first, const Two& second) {
  _mm512_storeu_si512(low, interleave(first, second, 0));
}
inline void store_pairs(Pair* low, Pair* high, const Two& first, const Two& second) {
  store_pairs(low, first, second);
  _mm512_storeu_si512(high, interleave(first, second, 16));
}
#else
struct Two {
  vbits low, high;
};
inline Two round_two(vfloat low, vfloat high) { return {rounded(low), rounded(high)}; }
inline void store_pairs(Pair* low, const Two& first, const Two& second) {
  *reinterpret_cast<vbits_u*>(low) = first.low | second.low << 16;
}
inline void store_pairs(Pair* low, Pair* high, const Two& first, const Two& second) {
  store_pairs(low, first, second);
  *reinterpret_cast<vbits_u*>(high) = first.high | second.high << 16;
}
#endif

// Sums of float vectors kept in double: as many lanes, in two halves. Doubles add to themselves.
struct Halves {
  vdouble low{}, high{};
};
inline Halves halves(vfloat v) {
#if FI_BYTES == 64
  return {(vdouble)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)),
          (vdouble)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1))};
#elif FI_BYTES == 32
  return {(vdouble)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)),
          (vdouble)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1))};
#elif defined(__SSE2__)
  return {(vdouble)_mm_cvtps_pd((__m128)v), (vdouble)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v))};
#else
  return {vdouble{v[0], v[1]}, vdouble{v[2], v[3]}};
#endif
}
inline void add(Halves& sum, vfloat v) {
  const Halves h = halves(v);
  sum.low += h.low;
  sum.high += h.high;
}
inline void add_product(Halves& sum, vfloat v, vfloat w) {
  const Halves h = halves(v), g = halves(w);
  sum.low += h.low * g.low;
  sum.high += h.high * g.high;
}
// Sums of v - offset and of its square, the difference taken in double.
inline void add_moments(Halves& sum, Halves& squares, vfloat v, const Halves& offset) {
  const Halves h = halves(v);
  const vdouble low = h.low - offset.low, high = h.high - offset.high;
  sum.low += low;
  sum.high += high;
  squares.low += low * low;
  squares.high += high * high;
}
inline vdouble halves(vdouble v) { return v; }
inline void add_moments(vdouble& sum, vdouble& squares, vdouble v, vdouble offset) {
  sum += v - offset;
  squares += (v - offset) * (v - offset);
}
inline void add(vdouble& sum, vdouble v) { sum += v; }
inline void add_product(vdouble& sum, vdouble v, vdouble w) { sum += v * w; }
// Writes the first n sums.
inline void store_sums(double* p, const Halves& sum, int64_t n) {
  double buffer[FI_BYTES / 4];
  store(buffer, sum.low);
  store(buffer + FI_BYTES / 8, sum.high);
  std::memcpy(p, buffer, (n < FI_BYTES / 4 ? n : FI_BYTES / 4) * sizeof(double));
}
inline void store_sums(double* p, vdouble sum, int64_t n) {
  std::memcpy(p, &sum, (n < FI_BYTES / 8 ? n : FI_BYTES / 8) * sizeof(double));
}

// The arithmetic type of a storage type and its vector.
template <class S>
struct Simd {
  using scalar = float;
  using vec = vfloat;
  using sums = Halves;
  static constexpr int lanes = FI_BYTES / 4;
};
template <>
struct Simd<double> {
  using scalar = double;
  using vec = vdouble;
  using sums = vdouble;
  static constexpr int lanes = FI_BYTES / 8;
};

// The first n < lanes values; the other lanes are zero. A call, as the copy is one anyway: inlined into every kernel of
// a last vector it was half of their code.
template <class S>
__attribute__((noinline)) typename Simd<S>::vec load_part(const S* p, int64_t n) {
  S buffer[Simd<S>::lanes] = {};
  std::memcpy(buffer, p, n * sizeof(S));
  return load(buffer);
}
template <class S>
__attribute__((noinline)) void store_part(S* p, typename Simd<S>::vec v, int64_t n) {
  S buffer[Simd<S>::lanes];
  store(buffer, v);
  std::memcpy(p, buffer, n * sizeof(S));
}
// By masks where the processor has them: through memory a map of 8 channels takes seven times as long.
#if FI_BYTES == 64
inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline vfloat load_part(const float* p, int64_t n) { return (vfloat)_mm512_maskz_loadu_ps(first(n), p); }
inline void store_part(float* p, vfloat v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), (__m512)v); }
inline vfloat load_part(const Bf16* p, int64_t n) {
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)), 16);
}
inline void store_part(Bf16* p, vfloat v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtepi32_epi16((__m512i)rounded(v)));
}
inline vdouble load_part(const double* p, int64_t n) {
  return (vdouble)_mm512_maskz_loadu_pd(static_cast<__mmask8>(first(n)), p);
}
inline void store_part(double* p, vdouble v, int64_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first(n)), (__m512d)v);
}
#elif FI_BYTES == 32
inline __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline vfloat load_part(const float* p, int64_t n) { return (vfloat)_mm256_maskload_ps(p, first(n)); }
inline void store_part(float* p, vfloat v, int64_t n) { _mm256_maskstore_ps(p, first(n), (__m256)v); }
#endif
template <class S>
inline typename Simd<S>::vec load_n(const S* p, int64_t n) {
  return n >= Simd<S>::lanes ? load(p) : load_part(p, n);
}
template <class S>
inline void store_n(S* p, typename Simd<S>::vec v, int64_t n) {
  n >= Simd<S>::lanes ? store(p, v) : store_part(p, v, n);
}

// max(floor, z) with NaN passed on.
template <class V>
inline V at_least(V floor, V z) {
  return z < floor ? floor : z;
}
#if FI_BYTES == 64
template <>
inline vfloat at_least(vfloat floor, vfloat z) {
  return (vfloat)_mm512_maskz_max_ps(0xffff, (__m512)floor, (__m512)z);
}
#elif FI_BYTES == 32
template <>
inline vfloat at_least(vfloat floor, vfloat z) {
  return (vfloat)_mm256_max_ps((__m256)floor, (__m256)z);
}
#elif defined(__SSE2__)
template <>
inline vfloat at_least(vfloat floor, vfloat z) {
  return (vfloat)_mm_max_ps((__m128)floor, (__m128)z);
}
#endif
// As torch's relu.
template <class V>
inline V relu(V z) {
  return at_least(V{}, z);
}

// Where z <= 0, zero; else v (also where z is NaN, as torch's threshold backward).
template <class V>
inline V gate(V z, V v) {
  return z <= 0 ? V{} : v;
}

}  // namespace
