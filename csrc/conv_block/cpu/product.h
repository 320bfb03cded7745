// The matrix product between Winograd's transforms. For simd_*.cpp.
#pragma once

#include <utility>

#include "conv_block/cpu/ahead.h"
#include "conv_block/cpu/reader.h"

namespace {

constexpr int kChunk = 2 * kLanes;
constexpr int kRows = FI_BYTES == 64 ? 14 : 6;  // rows of a register block: 2 * kRows accumulators

template <int NV>
FI_INLINE void multiply_add(float a, vfloat b0, vfloat b1, vfloat& c0, vfloat& c1) {
  c0 += b0 * a;
  if (NV == 2) c1 += b1 * a;
  asm volatile("" ::: "memory");  // keeps GCC from loading all a first, for which it would spill the sums
}

template <int WIDTH>
FI_INLINE void prefetch_row(const float* row) {
  constexpr int kLine = 16;  // floats
  for (int line = 0; line < WIDTH; line += kLine) __builtin_prefetch(row + line);
}

// c[i, :] (+)= sum_k a[i * ROW + k * STEP] * b[k, :] for the rows I and NV vectors of columns; b's rows are B_ROW
// apart, c's c_row. All sums of the block stay in registers.
//
// Packed weights, the b of forward and data gradient, lie in the order of their use: a chain ahead is where the next
// product begins. Not asked for, 16 MB of them keep it waiting a third of its time for the third cache, half for
// memory. The weight gradient comes back to a c of many. AHEAD is `Ahead` or `NothingAhead`: a line of what it holds is
// asked for at each step.
template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, int... I>
void register_block(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, AHEAD& ahead,
                    std::integer_sequence<int, I...>) {
  constexpr bool kPacked = B_ROW == kChunk;
  if (!kPacked && add) (prefetch_row<NV * kLanes>(c + I * c_row), ...);
  vfloat first[sizeof...(I)], second[sizeof...(I)];
  ((first[I] = second[I] = vfloat{}), ...);
  const auto lines = ahead.take(depth);
  for (int64_t k = 0; k < depth; ++k, a += STEP, b += B_ROW) {
    lines.ask(k);
    if (kPacked) prefetch_row<NV * kLanes>(b + kChain * kChunk);
    const vfloat b0 = load(b), b1 = NV == 2 ? load(b + kLanes) : b0;
    (multiply_add<NV>(a[I * ROW], b0, b1, first[I], second[I]), ...);
  }
  if (add) {
    ((first[I] += load(c + I * c_row)), ...);
    if (NV == 2) ((second[I] += load(c + I * c_row + kLanes)), ...);
  }
  (store(c + I * c_row, first[I]), ...);
  if (NV == 2) (store(c + I * c_row + kLanes, second[I]), ...);
}

template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, int ROWS>
void register_block_of(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, AHEAD& ahead) {
  register_block<NV, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, ahead, std::make_integer_sequence<int, ROWS>());
}

// The same for any number of rows, cut into register blocks of nearly equal height.
template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, int... I>
void product_by(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
                AHEAD& ahead, std::integer_sequence<int, I...>) {
  using Kernel = void (*)(const float*, const float*, int64_t, float*, int64_t, bool, AHEAD&);
  static constexpr Kernel kernels[] = {register_block_of<NV, ROW, STEP, B_ROW, AHEAD, I + 1>...};
  for (int64_t panels = (rows + kRows - 1) / kRows; panels > 0; --panels) {
    const int64_t height = (rows + panels - 1) / panels;
    for (int64_t k = 0; k < depth; k += kChain) {
      const int64_t terms = depth - k < kChain ? depth - k : kChain;
      kernels[height - 1](a + k * STEP, b + k * B_ROW, terms, c, c_row, add || k, ahead);
    }
    a += height * ROW;
    c += height * c_row;
    rows -= height;
  }
}

template <int ROW, int STEP, int B_ROW, class AHEAD>
void product(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
             bool two_vectors, AHEAD& ahead) {
  constexpr auto heights = std::make_integer_sequence<int, kRows>();
  if (two_vectors) return product_by<2, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, ahead, heights);
  product_by<1, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, ahead, heights);
}
template <int ROW, int STEP, int B_ROW>
void product(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
             bool two_vectors) {
  NothingAhead nothing;
  product<ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, two_vectors, nothing);
}

}  // namespace
