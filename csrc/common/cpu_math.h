// exp, log1p, tanh and erf of vectors, for cpu_simd*.cpp. Floats by polynomials of a few units in the last place,
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
template <class V>
inline V magnitude(V v) {
  return v < 0 ? -v : v;
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

inline vfloat erf_of(vfloat x) {
  constexpr float kRatio[] = {1.1283791f,    -0.37612627f,    0.11283597f,  -0.026854329f,
                              0.0051893119f, -0.00080188550f, 7.8824971e-5f};
  constexpr float kLogTail[] = {-0.00025626485f, 1.1299743f,      0.63226989f,   0.10966081f,   -0.026181901f,
                                0.0046750224f,   -0.00057868181f, 4.3901201e-5f, -1.5277973e-6f};  // -log erfc
  const vfloat size = magnitude(x), capped = size > 4.2f ? 4.2f - vfloat{} : size;
  const vfloat large = 1.0f - exp_of(-polynomial(capped, kLogTail));
  return size < 1.0f ? x * polynomial(x * x, kRatio) : x < 0 ? -large : x == x ? large : x;
}
inline vdouble erf_of(vdouble x) {
  return each_lane(x, [](double v) { return std::erf(v); });
}

}  // namespace
