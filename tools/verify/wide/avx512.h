// The AVX-512 intrinsics that csrc uses, as loops and GCC's vectors: for processors with AVX2 alone. Included before
// everything else in sources that are compiled for vectors of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace wide {

typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(64)));
typedef uint16_t Half16 __attribute__((vector_size(32)));
typedef float Float8 __attribute__((vector_size(32)));

template <class To, class From>
inline To cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "bits are kept");
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}
// The bfloat16 nearest to a float, ties to even. A denormal value is zero, a NaN stays one.
inline uint16_t bf16(float value) {
  uint32_t bits = cast<uint32_t>(value);
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline float from_bf16(uint16_t bits) { return cast<float>(static_cast<uint32_t>(bits) << 16); }
// Each 128 bits of the result take lanes from the same 128 bits of a and b by turns, from lane `first` of each on.
template <class V, int LANES>
inline V unpack(V a, V b, int first) {
  V to;
  for (int part = 0; part < 4; ++part) {
    for (int i = 0; i < LANES; ++i) {
      const int from = part * LANES + first + i / 2;
      to[part * LANES + i] = i % 2 ? b[from] : a[from];
    }
  }
  return to;
}

inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((Ints)a + (Ints)b); }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i slli_epi32(__m512i a, int by) { return (__m512i)((Ints)a << by); }
inline __m512 castpd_ps(__m512d a) { return (__m512)a; }
inline __m512d castps_pd(__m512 a) { return (__m512d)a; }
inline __m512 set1_ps(float a) { return (__m512)(a - Floats{}); }
inline __m512i set1_epi32(int a) { return (__m512i)(a - Ints{}); }
template <class... A>
inline __m512i set_epi32(A... a) {
  const int32_t given[16] = {a...};
  Ints to;
  for (int i = 0; i < 16; ++i) to[i] = given[15 - i];
  return (__m512i)to;
}
inline __m256 extractf32x8_ps(__m512 a, int half) {
  __m256 to;
  std::memcpy(&to, reinterpret_cast<const char*>(&a) + 32 * half, sizeof to);
  return to;
}
inline __m256 castps512_ps256(__m512 a) { return extractf32x8_ps(a, 0); }
inline __m512d cvtps_pd(__m256 a) { return (__m512d)__builtin_convertvector((Float8)a, Doubles); }
inline __m256i cvtepi32_epi16(__m512i a) { return (__m256i)__builtin_convertvector((Ints)a, Half16); }
inline __m512i cvtepu16_epi32(__m256i a) { return (__m512i)__builtin_convertvector((Half16)a, Ints); }
// As the instructions: the second operand where one is a NaN.
inline __m512 min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
inline __m512 max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
inline __m512 maskz_max_ps(__mmask16 all, __m512 a, __m512 b) { return all == 0xffff ? max_ps(a, b) : __m512{}; }

inline __m512 shuffle_f32x4(__m512 a, __m512 b, int from) {
  float lanes[2][16], to[16];
  std::memcpy(lanes[0], &a, sizeof a);
  std::memcpy(lanes[1], &b, sizeof b);
  for (int i = 0; i < 4; ++i) std::memcpy(to + 4 * i, lanes[i / 2] + 4 * (from >> 2 * i & 3), 16);
  std::memcpy(&a, to, sizeof a);
  return a;
}
inline __m512 unpacklo_ps(__m512 a, __m512 b) { return (__m512)unpack<Floats, 4>((Floats)a, (Floats)b, 0); }
inline __m512 unpackhi_ps(__m512 a, __m512 b) { return (__m512)unpack<Floats, 4>((Floats)a, (Floats)b, 2); }
inline __m512d unpacklo_pd(__m512d a, __m512d b) { return (__m512d)unpack<Doubles, 2>((Doubles)a, (Doubles)b, 0); }
inline __m512d unpackhi_pd(__m512d a, __m512d b) { return (__m512d)unpack<Doubles, 2>((Doubles)a, (Doubles)b, 1); }
inline __m512i permutex2var_epi16(__m512i a, __m512i from, __m512i b) {
  const Halves of_a = (Halves)a, of_b = (Halves)b, at = (Halves)from;
  Halves to;
  for (int i = 0; i < 32; ++i) to[i] = at[i] & 32 ? of_b[at[i] & 31] : of_a[at[i] & 31];
  return (__m512i)to;
}

inline void stream_ps(float* p, __m512 a) {
  if (reinterpret_cast<uintptr_t>(p) % 64) __builtin_trap();
  std::memcpy(p, &a, sizeof a);
}
inline void storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
template <class V, class S, class M>
inline V masked_load(M mask, const S* p) {
  V to{};
  for (unsigned i = 0; i < sizeof(V) / sizeof(S); ++i)
    if (mask >> i & 1) to[i] = p[i];
  return to;
}
template <class V, class S, class M>
inline void masked_store(S* p, M mask, V a) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(S); ++i)
    if (mask >> i & 1) p[i] = a[i];
}
inline __m512 maskz_loadu_ps(__mmask16 mask, const float* p) { return (__m512)masked_load<Floats>(mask, p); }
inline __m512d maskz_loadu_pd(__mmask8 mask, const double* p) { return (__m512d)masked_load<Doubles>(mask, p); }
inline void mask_storeu_ps(float* p, __mmask16 mask, __m512 a) { masked_store(p, mask, (Floats)a); }
inline void mask_storeu_pd(double* p, __mmask8 mask, __m512d a) { masked_store(p, mask, (Doubles)a); }
inline __m256i maskz_loadu_epi16(__mmask16 mask, const void* p) {
  return (__m256i)masked_load<Half16>(mask, static_cast<const uint16_t*>(p));
}
inline void mask_storeu_epi16(void* p, __mmask16 mask, __m256i a) {
  masked_store(static_cast<uint16_t*>(p), mask, (Half16)a);
}

inline __m256i cvtneps_pbh(__m512 a) {
  Half16 to;
  for (int i = 0; i < 16; ++i) to[i] = bf16(a[i]);
  return (__m256i)to;
}
inline __m512i cvtne2ps_pbh(__m512 high, __m512 low) {
  Halves to;
  for (int i = 0; i < 16; ++i) {
    to[i] = bf16(low[i]);
    to[16 + i] = bf16(high[i]);
  }
  return (__m512i)to;
}
// Both products of each pair, the upper one first.
template <class A, class B>
inline __m512 dpbf16_ps(__m512 sum, A a, B b) {
  const Ints x = cast<Ints>(a), y = cast<Ints>(b);
  constexpr int kUpper = static_cast<int>(0xffff0000u);
  sum += (__m512)((Floats)(x & kUpper) * (Floats)(y & kUpper));
  sum += (__m512)((Floats)(x << 16) * (Floats)(y << 16));
  return sum;
}

}  // namespace wide

#define _mm512_add_epi32 wide::add_epi32
#define _mm512_add_ps wide::add_ps
#define _mm512_castpd_ps wide::castpd_ps
#define _mm512_castps512_ps256 wide::castps512_ps256
#define _mm512_castps_pd wide::castps_pd
#define _mm512_cvtepi32_epi16 wide::cvtepi32_epi16
#define _mm512_cvtepu16_epi32 wide::cvtepu16_epi32
#define _mm512_cvtne2ps_pbh wide::cvtne2ps_pbh
#define _mm512_cvtneps_pbh wide::cvtneps_pbh
#define _mm512_cvtps_pd wide::cvtps_pd
#define _mm512_dpbf16_ps wide::dpbf16_ps
#define _mm512_extractf32x8_ps wide::extractf32x8_ps
#define _mm512_mask_storeu_pd wide::mask_storeu_pd
#define _mm512_mask_storeu_ps wide::mask_storeu_ps
#define _mm512_maskz_loadu_pd wide::maskz_loadu_pd
#define _mm512_maskz_loadu_ps wide::maskz_loadu_ps
#define _mm512_maskz_max_ps wide::maskz_max_ps
#define _mm512_min_ps wide::min_ps
#define _mm512_or_si512 wide::or_si512
#define _mm512_permutex2var_epi16 wide::permutex2var_epi16
#define _mm512_set1_epi32 wide::set1_epi32
#define _mm512_set1_ps wide::set1_ps
#define _mm512_set_epi32 wide::set_epi32
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 wide::shuffle_f32x4
#define _mm512_slli_epi32 wide::slli_epi32
#define _mm512_storeu_si512 wide::storeu_si512
#define _mm512_stream_ps wide::stream_ps
#define _mm512_unpackhi_pd wide::unpackhi_pd
#define _mm512_unpackhi_ps wide::unpackhi_ps
#define _mm512_unpacklo_pd wide::unpacklo_pd
#define _mm512_unpacklo_ps wide::unpacklo_ps
#define _mm256_maskz_loadu_epi16 wide::maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 wide::mask_storeu_epi16
