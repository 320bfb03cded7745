// The matrix product between Winograd's transforms. For simd_*.cpp.
#pragma once

#include <type_traits>
#include <utility>

#include "conv_block/cpu/ahead.h"
#include "conv_block/cpu/reader.h"

namespace {

constexpr int kChunk = 2 * kLanes;
constexpr int kRows = FI_BYTES == 64 ? 14 : 6;  // rows of a register block: 2 * kRows accumulators

// Terms summed in a row: products of two floats, or two products of bfloat16 values that lie side by side, whose
// rounding is far above what a longer chain adds.
template <class T>
constexpr int kChainOf = std::is_same<T, float>::value ? kChain : 2 * kChain;

template <int NV>
FI_INLINE void multiply_add(float a, vfloat b0, vfloat b1, vfloat& c0, vfloat& c1) {
  c0 += b0 * a;
  if (NV == 2) c1 += b1 * a;
  asm volatile("" ::: "memory");  // keeps GCC from loading all a first, for which it would spill the sums
}

template <int NV>
FI_INLINE void multiply_add(Pair a, vbits b0, vbits b1, vfloat& c0, vfloat& c1) {
#if defined(__AVX512BF16__)
  const __m512bh both = (__m512bh)_mm512_set1_epi32(static_cast<int>(a.bits));
  c0 = (vfloat)_mm512_dpbf16_ps((__m512)c0, (__m512bh)b0, both);
  if (NV == 2) c1 = (vfloat)_mm512_dpbf16_ps((__m512)c1, (__m512bh)b1, both);
  asm volatile("" ::: "memory");  // as above
#else
  const vbits both = a.bits - vbits{};
  auto add = [&](vbits b, vfloat& c) {
    c += (vfloat)(b << 16) * (vfloat)(both << 16);
    c += (vfloat)(b & 0xffff0000u) * (vfloat)(both & 0xffff0000u);
  };
  add(b0, c0);
  if (NV == 2) add(b1, c1);
#endif
}

template <int WIDTH, class T>
FI_INLINE void prefetch_row(const T* row) {
  constexpr int kLine = 16;  // terms
  for (int line = 0; line < WIDTH; line += kLine) __builtin_prefetch(row + line);
}

// c[i, :] (+)= sum_k a[i * ROW + k * STEP] * b[k, :], k over `depth` terms, for the rows I and NV vectors of columns;
// b's rows are B_ROW apart, c's c_row. All sums of the block stay in registers.
//
// Packed weights, the b of forward and data gradient, lie in the order of their use: a chain ahead is where the next
// product begins. Not asked for, 16 MB of them keep it waiting a third of its time for the third cache, half for
// memory. The weight gradient comes back to a c of many. AHEAD is `Ahead` or `NothingAhead`: lines of what it holds are
// asked for on the way.
template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, class T, int... I>
void register_block(const T* a, const T* b, int64_t depth, float* c, int64_t c_row, bool add, AHEAD& ahead,
                    std::integer_sequence<int, I...>) {
  constexpr bool kPacked = B_ROW == kChunk;
  if (!kPacked && add) (prefetch_row<NV * kLanes>(c + I * c_row), ...);
  vfloat first[sizeof...(I)], second[sizeof...(I)];
  ((first[I] = second[I] = vfloat{}), ...);
  const auto lines = ahead.take(depth);
  constexpr int64_t kEvery = decltype(lines)::every;
  for (int64_t begin = 0; begin < depth; begin += kEvery) {
    lines.ask(begin);
    const int64_t end = kEvery == 1 ? begin + 1 : begin + kEvery < depth ? begin + kEvery : depth;
    for (int64_t k = begin; k < end; ++k, a += STEP, b += B_ROW) {
      if (kPacked) prefetch_row<NV * kLanes>(b + kChainOf<T> * kChunk);
      const auto b0 = load(b), b1 = NV == 2 ? load(b + kLanes) : b0;
      (multiply_add<NV>(a[I * ROW], b0, b1, first[I], second[I]), ...);
    }
  }
  if (add) {
    ((first[I] += load(c + I * c_row)), ...);
    if (NV == 2) ((second[I] += load(c + I * c_row + kLanes)), ...);
  }
  (store(c + I * c_row, first[I]), ...);
  if (NV == 2) (store(c + I * c_row + kLanes, second[I]), ...);
}

template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, class T, int ROWS>
void register_block_of(const T* a, const T* b, int64_t depth, float* c, int64_t c_row, bool add, AHEAD& ahead) {
  register_block<NV, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, ahead, std::make_integer_sequence<int, ROWS>());
}

// The same for any number of rows, cut into register blocks of nearly equal height; `chain` terms are summed in a row.
template <int NV, int ROW, int STEP, int B_ROW, class AHEAD, class T, int... I>
void product_by(const T* a, const T* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows, AHEAD& ahead,
                int64_t chain, std::integer_sequence<int, I...>) {
  using Kernel = void (*)(const T*, const T*, int64_t, float*, int64_t, bool, AHEAD&);
  static constexpr Kernel kernels[] = {register_block_of<NV, ROW, STEP, B_ROW, AHEAD, T, I + 1>...};
  for (int64_t panels = (rows + kRows - 1) / kRows; panels > 0; --panels) {
    const int64_t height = (rows + panels - 1) / panels;
    for (int64_t k = 0; k < depth; k += chain) {
      const int64_t terms = depth - k < chain ? depth - k : chain;
      kernels[height - 1](a + k * STEP, b + k * B_ROW, terms, c, c_row, add || k, ahead);
    }
    a += height * ROW;
    c += height * c_row;
    rows -= height;
  }
}

template <int ROW, int STEP, int B_ROW, class AHEAD, class T>
void product(const T* a, const T* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows, bool two_vectors,
             AHEAD& ahead, int64_t chain = kChainOf<T>) {
  constexpr auto heights = std::make_integer_sequence<int, kRows>();
  if (two_vectors) return product_by<2, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, ahead, chain, heights);
  product_by<1, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, ahead, chain, heights);
}
template <int ROW, int STEP, int B_ROW, class T>
void product(const T* a, const T* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows, bool two_vectors,
             int64_t chain = kChainOf<T>) {
  NothingAhead nothing;
  product<ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, two_vectors, nothing, chain);
}

}  // namespace
