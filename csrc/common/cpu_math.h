// exp, log1p, tanh and gelu of vectors, for cpu_simd*.cpp. Floats by polynomials of a few units in the last place,
// fitted on Chebyshev nodes; doubles lane by lane through libm, as they serve tests.
#pragma once

#include <cmath>

#include "common/cpu_vec.h"

namespace {

template <class V, class F>
inline V each_lane(V v, F f) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = f(v[i]);
  return v;
}
inline vfloat magnitude(vfloat v) { return (vfloat)((vbits)v & 0x7fffffffu); }
inline vdouble magnitude(vdouble v) { return v < 0 ? -v : v; }
// The smaller of v and the bound; NaN stays NaN.
inline vfloat at_most(vfloat v, float bound) {
#if FI_BYTES == 64
  return (vfloat)_mm512_min_ps(_mm512_set1_ps(bound), (__m512)v);
#elif FI_BYTES == 32
  return (vfloat)_mm256_min_ps(_mm256_set1_ps(bound), (__m256)v);
#else
  return v > bound ? bound - vfloat{} : v;
#endif
}

// Horner's scheme: p[0] + p[1] * x + ... of a constant table.
template <int N>
inline vfloat polynomial(vfloat x, const float (&p)[N]) {
  vfloat sum = p[N - 1] - vfloat{};
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; --i) sum = sum * x + p[i];
  return sum;
}

// exp(x), x clamped to where the result is finite and normal; NaN stays NaN.
inline vfloat exp_of(vfloat given) {
  constexpr float kTail[] = {0.5f, 0.16666577f, 0.041666465f, 0.00836318f, 0.0013933651f};
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its sum with x has round(x) in the low bits
  vfloat x = given > 88.37f ? 88.37f - vfloat{} : given;
  x = x < -87.3f ? -87.3f - vfloat{} : x;
  const vfloat shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const vfloat r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  const vfloat e = 1.0f + (r + r * r * polynomial(r, kTail));
  const vfloat scaled = (vfloat)((vbits)e + ((vbits)shifted << 23));
  return given == given ? scaled : given;
}
inline vdouble exp_of(vdouble x) {
  return each_lane(x, [](double v) { return std::exp(v); });
}

// log(1 + u), 0 <= u <= 1.
inline vfloat log1p_of(vfloat u) {
  constexpr float kRatio[] = {1.0f,         -0.49999904f, 0.33330004f,   -0.24954559f, 0.19678117f,
                              -0.15311863f, 0.10614264f,  -0.057064201f, 0.019907161f, -0.0032563785f};
  return u * polynomial(u, kRatio);
}
inline vdouble log1p_of(vdouble u) {
  return each_lane(u, [](double v) { return std::log1p(v); });
}

inline vfloat tanh_of(vfloat x) {
  constexpr float kRatio[] = {1.0f, -0.33333253f, 0.13330957f, -0.053707068f, 0.020544905f, -0.0056076887f};
  const vfloat size = magnitude(x), large = 1.0f - 2.0f / (exp_of(size + size) + 1.0f);
  return size < 0.625f ? x * polynomial(x * x, kRatio) : x < 0 ? -large : large;
}
inline vdouble tanh_of(vdouble x) {
  return each_lane(x, [](double v) { return std::tanh(v); });
}

// 2^x, -126 < x < 127.
inline vfloat exp2_of(vfloat x) {
  constexpr float kRatio[] = {0.693146978f, 0.240222421f, 0.0555073375f, 0.00967151347f, 0.00132647267f};
  constexpr float kRound = 12582912.0f;  // as in exp_of
  const vfloat shifted = x + kRound, r = x - (shifted - kRound), e = 1.0f + r * polynomial(r, kRatio);
  return (vfloat)((vbits)e + ((vbits)shifted << 23));
}

// With Q(t) = erfc(t / sqrt(2)) / 2, the normal distribution's tail, and q = exp(-t^2 / 2) / sqrt(2 pi):
//     gelu(z) = max(z, 0) - |z| Q(|z|),   gelu'(z) = D(-z) of z < 0, 1 - D(z) else, where D(t) = Q(t) - t q(t)
// so one power of two serves each. The error is below 7e-8 of z, or of the derivative.
inline vfloat gelu_of(vfloat z) {
  constexpr float kLogTail[] = {-1.15111121f,    -0.459141631f,   -0.0527314485f, 0.00743639449f,
                                -0.000436849053f, -6.01749605e-05f, 1.3216697e-05f, -7.28250677e-07f};  // of log2(2 Q) / t
  const vfloat t = at_most(magnitude(z), 10.0f);
  return relu(z) - t * exp2_of(t * polynomial(t, kLogTail) - 1.0f);
}
inline vfloat gelu_slope_of(vfloat z) {
  constexpr float kMills[] = {0.11967039f,    0.120267278f, 0.102177215f,  0.123174218f,
                              -0.0466432616f, 0.201418093f, -0.155596059f, 0.0355321426f};  // of Q exp(t^2 / 2) / y
  const vfloat t = at_most(magnitude(z), 13.0f);
  const vfloat y = 1.0f / (1.0f + 0.3f * t), power = exp2_of(t * t * -0.72134752f);
  const vfloat below = power * (y * polynomial(y, kMills) - 0.39894228f * t);
  return z < 0 ? below : 1.0f - below;
}
inline vdouble normal_of(vdouble z) {
  return each_lane(z, [](double v) { return 0.5 * std::erfc(-0.70710678118654752440 * v); });
}
inline vdouble gelu_of(vdouble z) { return z * normal_of(z); }
inline vdouble gelu_slope_of(vdouble z) { return normal_of(z) + z * 0.39894228040143267794 * exp_of(-0.5 * z * z); }

}  // namespace
