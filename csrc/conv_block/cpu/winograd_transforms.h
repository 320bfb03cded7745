// Winograd's transforms with the points 0, 1, -1, infinity. For simd_*.cpp.
//
//     Y = A^T [ (G w G^T) . (B^T d B) ] A        dw = G^T [ (B^T d B) . (A dy A^T) ] G
//
// Lavin and Gray 2016. All entries are 0, 1, -1 and 1/2.
#pragma once

#include "conv_block/cpu/reader.h"
#include "conv_block/cpu/winograd.h"

namespace {

struct Quad {
  vfloat a, b, c, d;
};

// Each tiling: r taps, m outputs and `side` places along an axis, and its five transforms of one axis. What they return
// beyond is nothing to be read.
struct ThreeTaps {
  static constexpr int m = 2, r = 3, side = 4;
  // B^T d.
  static FI_INLINE Quad input(const Quad& d) { return {d.a - d.c, d.b + d.c, d.c - d.b, d.b - d.d}; }
  // A^T m.
  static FI_INLINE Quad output(const Quad& m) { return {m.a + m.b + m.c, m.b - m.c - m.d, vfloat{}, vfloat{}}; }
  // A dy.
  static FI_INLINE Quad upstream(const Quad& dy) { return {dy.a, dy.a + dy.b, dy.a - dy.b, -dy.b}; }
  // G w.
  static FI_INLINE Quad weight(const Quad& w) {
    const vfloat even = w.a + w.c;
    return {w.a, 0.5f * (even + w.b), 0.5f * (even - w.b), w.c};
  }
  // G^T u.
  static FI_INLINE Quad weight_grad(const Quad& u) {
    const vfloat even = 0.5f * (u.b + u.c), odd = 0.5f * (u.b - u.c);
    return {u.a + even, odd, even + u.d, vfloat{}};
  }
};

struct TwoTaps {
  static constexpr int m = 3, r = 2, side = 4;
  static FI_INLINE Quad input(const Quad& d) { return ThreeTaps::input(d); }
  static FI_INLINE Quad output(const Quad& m) {
    const vfloat even = m.b + m.c;
    return {m.a + even, m.b - m.c, even - m.d, vfloat{}};
  }
  static FI_INLINE Quad upstream(const Quad& dy) {
    const vfloat even = dy.a + dy.c;
    return {dy.a, even + dy.b, even - dy.b, -dy.c};
  }
  static FI_INLINE Quad weight(const Quad& w) { return {w.a, 0.5f * (w.a + w.b), 0.5f * (w.a - w.b), w.b}; }
  static FI_INLINE Quad weight_grad(const Quad& u) {
    const vfloat even = 0.5f * (u.b + u.c), odd = 0.5f * (u.b - u.c);
    return {u.a + even, odd + u.d, vfloat{}, vfloat{}};
  }
};

// Where d.a and d.d are padding, y = (w.b d.b + w.c d.c, w.a d.b + w.b d.c). As coefficients of a product of
// polynomials the weight's gradient, and with it all the rest, takes three points: 1, -1 and infinity. With 0 for -1,
// Karatsuba's, the middle tap would be a small difference of large sums.
struct Alone {
  static constexpr int m = 2, r = 3, side = 3;
  static FI_INLINE Quad input(const Quad& d) { return {d.b + d.c, d.b - d.c, d.c, vfloat{}}; }
  static FI_INLINE Quad output(const Quad& m) { return {m.a - m.b + m.c, m.a + m.b, vfloat{}, vfloat{}}; }
  static FI_INLINE Quad upstream(const Quad& dy) { return {dy.b + dy.a, dy.b - dy.a, dy.a, vfloat{}}; }
  static FI_INLINE Quad weight(const Quad& w) { return {0.5f * (w.a + w.b), 0.5f * (w.a - w.b), w.c - w.a, vfloat{}}; }
  static FI_INLINE Quad weight_grad(const Quad& u) {
    return {0.5f * (u.a + u.b) - u.c, 0.5f * (u.a - u.b), u.c, vfloat{}};
  }
};

// Whether there is code for tiles whose inputs all lie inside the map. Those of `Alone` never do.
template <class T>
constexpr bool kMayBeInside = T::side > 3 && !kGeneralOnly;

// Calls f with the tiling of a form.
template <class F>
void with_tiling(const fi::Form& form, F f) {
  if (form.tiling == fi::Tiling::alone) return f(Alone{});
  form.tiling == fi::Tiling::three_taps ? f(ThreeTaps{}) : f(TwoTaps{});
}

// The first SIDE of a row of places, `step` values apart.
template <int SIDE, class W>
FI_INLINE void store_row(W* to, int64_t step, const Quad& v) {
  store(to, v.a);
  store(to + step, v.b);
  store(to + 2 * step, v.c);
  if (SIDE == 4) store(to + 3 * step, v.d);
}

// Rows of a 4 x 4 array of vectors from its columns.
FI_INLINE Quad row(const Quad& p, const Quad& q, const Quad& r, const Quad& s, int i) {
  if (i == 0) return {p.a, q.a, r.a, s.a};
  if (i == 1) return {p.b, q.b, r.b, s.b};
  if (i == 2) return {p.c, q.c, r.c, s.c};
  return {p.d, q.d, r.d, s.d};
}

}  // namespace
