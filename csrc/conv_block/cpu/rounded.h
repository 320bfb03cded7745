// Transformed values of bfloat16 maps: rounded, two places in a vector, and stored as pairs. For simd_bf16*.cpp.
#pragma once

#include "conv_block/cpu/winograd_transforms.h"

namespace {

// One vector of channels of a transformed tile or weight, rounded.
template <class T>
struct Rounded {
  Two two[T::side][2];

  FI_INLINE void put(int i, const Quad& v) {
    two[i][0] = round_two(v.a, v.b);
    two[i][1] = round_two(v.c, v.d);
  }
};

// to[place * slab] = the pairs of two such vectors.
template <class T>
FI_INLINE void store_rounded(Pair* to, int64_t slab, const Rounded<T>& first, const Rounded<T>& second) {
  for (int i = 0; i < T::side; ++i, to += 4 * slab) {
    store_pairs(to, to + slab, first.two[i][0], second.two[i][0]);
    if (T::side == 4) {
      store_pairs(to + 2 * slab, to + 3 * slab, first.two[i][1], second.two[i][1]);
    } else {
      store_pairs(to + 2 * slab, first.two[i][1], second.two[i][1]);
    }
  }
}

}  // namespace
