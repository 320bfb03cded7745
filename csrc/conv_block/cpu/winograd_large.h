// Winograd's transforms of 3x3 taps with tiles of 4 x 4 outputs: 36 products where four smaller tiles take 64. For
// simd_*.cpp. docs/cpu.md has the errors that chose the points and the chain, and where these tiles are used.
#pragma once

#include "conv_block/cpu/product.h"
#include "conv_block/cpu/tiles.h"

namespace {

template <class V>
struct SixOf {
  V v[6];
};
using Six = SixOf<vfloat>;

// The points are 0, 2/3, -2/3, 3/2, -3/2 and infinity. With 1, -1, 2 and -2 for the middle four the rounding error is
// twice as large.
struct Large {
  static constexpr int m = 4, r = 3, side = 6;
  // The squares of 2/3 and 3/2, whose product is 1, and their sum.
  static constexpr float kNear = 2.0f / 3, kFar = 1.5f;
  static constexpr float kNear2 = 4.0f / 9, kFar2 = 2.25f, kBoth2 = 97.0f / 36;
  // 1 / product of the differences from the other finite points.
  static constexpr double kNearScale = -81.0 / 130, kFarScale = 8.0 / 65;

  // B^T d.
  static FI_INLINE Six input(const Six& d) {
    const vfloat even_near = d.v[4] - kFar2 * d.v[2], odd_near = kNear * (d.v[3] - kFar2 * d.v[1]);
    const vfloat even_far = d.v[4] - kNear2 * d.v[2], odd_far = kFar * (d.v[3] - kNear2 * d.v[1]);
    return {{d.v[0] - kBoth2 * d.v[2] + d.v[4], even_near + odd_near, even_near - odd_near, even_far + odd_far,
             even_far - odd_far, d.v[1] - kBoth2 * d.v[3] + d.v[5]}};
  }
  // A^T m: the first four.
  static FI_INLINE Six output(const Six& m) {
    const vfloat even_near = m.v[1] + m.v[2], odd_near = kNear * (m.v[1] - m.v[2]);
    const vfloat even_far = m.v[3] + m.v[4], odd_far = kFar * (m.v[3] - m.v[4]);
    return {{m.v[0] + (even_near + even_far), odd_near + odd_far, kNear2 * even_near + kFar2 * even_far,
             m.v[5] + (kNear2 * odd_near + kFar2 * odd_far)}};
  }
  // A dy of the first four.
  static FI_INLINE Six upstream(const Six& dy) {
    const vfloat even_near = dy.v[0] + kNear2 * dy.v[2], odd_near = kNear * (dy.v[1] + kNear2 * dy.v[3]);
    const vfloat even_far = dy.v[0] + kFar2 * dy.v[2], odd_far = kFar * (dy.v[1] + kFar2 * dy.v[3]);
    return {{dy.v[0], even_near + odd_near, even_near - odd_near, even_far + odd_far, even_far - odd_far, dy.v[3]}};
  }
  // G w of the first three, in double: a weight is transformed once and rounded once.
  static FI_INLINE SixOf<vdouble> weight(const SixOf<vdouble>& w) {
    constexpr double near = 2.0 / 3, far = 1.5;
    const vdouble even_near = kNearScale * (w.v[0] + near * near * w.v[2]), odd_near = kNearScale * near * w.v[1];
    const vdouble even_far = kFarScale * (w.v[0] + far * far * w.v[2]), odd_far = kFarScale * far * w.v[1];
    return {{w.v[0], even_near + odd_near, even_near - odd_near, even_far + odd_far, even_far - odd_far, w.v[2]}};
  }
  // G^T u: the first three.
  static FI_INLINE Six weight_grad(const Six& u) {
    constexpr float near = kNearScale, far = kFarScale;
    const vfloat even_near = near * (u.v[1] + u.v[2]), odd_near = near * kNear * (u.v[1] - u.v[2]);
    const vfloat even_far = far * (u.v[3] + u.v[4]), odd_far = far * kFar * (u.v[3] - u.v[4]);
    return {{u.v[0] + (even_near + even_far), odd_near + odd_far, u.v[5] + (kNear2 * even_near + kFar2 * even_far)}};
  }
};

// out(i, j, (M v M^T)[i, j]) for the OUT x OUT results of the IN x IN values v(i, j); `axis` multiplies by M.
template <int IN, int OUT, class In, class Axis, class Out>
FI_INLINE void transform_square(const In& v, const Axis& axis, const Out& out) {
  using Row = decltype(axis({}));
  Row columns[IN];
#pragma GCC unroll 6
  for (int j = 0; j < IN; ++j) {
    Row column{};
#pragma GCC unroll 6
    for (int i = 0; i < IN; ++i) column.v[i] = v(i, j);
    columns[j] = axis(column);
  }
#pragma GCC unroll 6
  for (int i = 0; i < OUT; ++i) {
    Row row{};
#pragma GCC unroll 6
    for (int j = 0; j < IN; ++j) row.v[j] = columns[j].v[i];
    row = axis(row);
#pragma GCC unroll 6
    for (int j = 0; j < OUT; ++j) out(i, j, row.v[j]);
  }
}

// out(place, c) = (B^T d B)[place] for `depth` channels of one source from `first` on.
template <class T, class R, bool INSIDE, class Out>
void transform_input(const fi::Source& source, int64_t first, int64_t depth, const PatchOf<6>& p, const Out& out) {
  for (int64_t c = 0; c < depth; c += kLanes) {
    const R read(source, first + c);
    transform_square<6, 6>([&](int i, int j) { return read.template at<INSIDE>(p.pixel[i][j]); },
                           [](const Six& v) { return T::input(v); },
                           [&](int i, int j, vfloat v) { out(6 * i + j, c, v); });
  }
}

// out(place, c) = (A dy A^T)[place] for `width` channels from c0 on.
template <class T, class R, class Out>
void transform_upstream(const fi::Source& source, int64_t c0, int64_t width, const PatchOf<6>& p, const Out& out) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const R read(source, c0 + c);
    transform_square<4, 6>([&](int i, int j) { return read.template at<false>(p.pixel[i][j]); },
                           [](const Six& v) { return T::upstream(v); },
                           [&](int i, int j, vfloat v) { out(6 * i + j, c, v); });
  }
}

// taps[i][j] = (G^T u G)[i, j], where u(place) is the sum over the tiles.
template <class Sum, class W>
void transform_weight_grad(Large, const Sum& u, W (&taps)[3][3][kLanes]) {
  transform_square<6, 3>([&](int i, int j) { return u(6 * i + j); }, [](const Six& v) { return Large::weight_grad(v); },
                         [&](int i, int j, vfloat v) { store(taps[i][j], v); });
}

// Calls f with the tiling of a form. The larger one is float32's alone: it multiplies bfloat16's rounding.
template <class F>
void with_any_tiling(const fi::Form& form, F f) {
  if (form.tiling == fi::Tiling::large) return f(Large{});
  with_tiling(form, f);
}

template <class T>
constexpr int kPatchSide = T::side > 4 ? T::side : 4;
template <class T>
using PatchFor = PatchOf<kPatchSide<T>>;
template <class T>
constexpr int kPlaces = kPatchSide<T> * kPatchSide<T>;

}  // namespace
