// Winograd's transforms of the weight gradient with tiles of 4 x 4 outputs of 3x3 taps: 36 products where four smaller
// tiles take 64. For simd_*.cpp.
//
// The points are 0, 2/3, -2/3, 3/2, -3/2 and infinity. With 1, -1, 2 and -2 for the middle four the rounding error is
// twice as large.
#pragma once

#include "conv_block/cpu/tiles.h"

namespace {

struct Six {
  vfloat v[6];
};

struct Large {
  static constexpr int m = 4, r = 3, side = 6;
  // The squares of 2/3 and 3/2, whose product is 1, and their sum.
  static constexpr float kNear = 2.0f / 3, kFar = 1.5f;
  static constexpr float kNear2 = 4.0f / 9, kFar2 = 2.25f, kBoth2 = 97.0f / 36;
  // 1 / product of the differences from the other finite points.
  static constexpr float kNearScale = -81.0f / 130, kFarScale = 8.0f / 65;

  // B^T d.
  static FI_INLINE Six input(const Six& d) {
    const vfloat even_near = d.v[4] - kFar2 * d.v[2], odd_near = kNear * (d.v[3] - kFar2 * d.v[1]);
    const vfloat even_far = d.v[4] - kNear2 * d.v[2], odd_far = kFar * (d.v[3] - kNear2 * d.v[1]);
    return {{d.v[0] - kBoth2 * d.v[2] + d.v[4], even_near + odd_near, even_near - odd_near, even_far + odd_far,
             even_far - odd_far, d.v[1] - kBoth2 * d.v[3] + d.v[5]}};
  }
  // A dy of the first four.
  static FI_INLINE Six upstream(const Six& dy) {
    const vfloat even_near = dy.v[0] + kNear2 * dy.v[2], odd_near = kNear * (dy.v[1] + kNear2 * dy.v[3]);
    const vfloat even_far = dy.v[0] + kFar2 * dy.v[2], odd_far = kFar * (dy.v[1] + kFar2 * dy.v[3]);
    return {{dy.v[0], even_near + odd_near, even_near - odd_near, even_far + odd_far, even_far - odd_far, dy.v[3]}};
  }
  // G^T u: the first three.
  static FI_INLINE Six weight_grad(const Six& u) {
    const vfloat even_near = kNearScale * (u.v[1] + u.v[2]), odd_near = kNearScale * kNear * (u.v[1] - u.v[2]);
    const vfloat even_far = kFarScale * (u.v[3] + u.v[4]), odd_far = kFarScale * kFar * (u.v[3] - u.v[4]);
    return {{u.v[0] + (even_near + even_far), odd_near + odd_far, u.v[5] + (kNear2 * even_near + kFar2 * even_far)}};
  }
};

// out(6 * i + j, c, v) of all places, given the columns of what an axis' transform made of a tile; `axis` is the other
// axis' transform.
template <class Axis, class Out>
FI_INLINE void put_rows(const Six* columns, int count, int64_t c, const Axis& axis, const Out& out) {
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    Six row{};
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      if (j < count) row.v[j] = columns[j].v[i];
    }
    row = axis(row);
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) out(6 * i + j, c, row.v[j]);
  }
}

// out(place, c) = (B^T d B)[place] for `depth` channels of one source from `first` on.
template <class T, class R, bool INSIDE, class Out>
void transform_input(const fi::Source& source, int64_t first, int64_t depth, const PatchOf<6>& p, const Out& out) {
  for (int64_t c = 0; c < depth; c += kLanes) {
    const R read(source, first + c);
    Six columns[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      Six column;
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) column.v[i] = read.template at<INSIDE>(p.pixel[i][j]);
      columns[j] = T::input(column);
    }
    put_rows(columns, 6, c, [](const Six& v) { return T::input(v); }, out);
  }
}

// out(place, c) = (A dy A^T)[place] for `width` channels from c0 on.
template <class T, class R, class Out>
void transform_upstream(const fi::Source& source, int64_t c0, int64_t width, const PatchOf<6>& p, const Out& out) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const R read(source, c0 + c);
    Six columns[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Six column{};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) column.v[i] = read.template at<false>(p.pixel[i][j]);
      columns[j] = T::upstream(column);
    }
    put_rows(columns, 4, c, [](const Six& v) { return T::upstream(v); }, out);
  }
}

// taps[i][j] = (G^T u G)[i, j], where u(place) is the sum over the tiles.
template <class Sum, class W>
void transform_weight_grad(Large, const Sum& u, W (&taps)[3][3][kLanes]) {
  Six columns[6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    Six column;
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) column.v[i] = u(6 * i + j);
    columns[j] = Large::weight_grad(column);
  }
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    Six row;
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) row.v[j] = columns[j].v[i];
    row = Large::weight_grad(row);
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) store(taps[i][j], row.v[j]);
  }
}

}  // namespace
