// Winograd's transforms with the points 0, 1, -1, infinity, and the matrix product between them. For cpu_simd*.cpp.
//
//     Y = A^T [ (G w G^T) . (B^T d B) ] A        dw = G^T [ (B^T d B) . (A dy A^T) ] G
//
// Lavin and Gray 2016; r taps, m = 5 - r outputs. All entries are 0, 1, -1 and 1/2.
#pragma once

#include <type_traits>
#include <utility>

#include "conv_block/cpu.h"
#include "conv_block/cpu_reader.h"

namespace {

constexpr int kChunk = 2 * kLanes;
constexpr int kRows = FI_BYTES == 64 ? 14 : 6;  // rows of a register block: 2 * kRows accumulators

struct Quad {
  vfloat a, b, c, d;
};

// B^T d.
FI_INLINE Quad input_transform(const Quad& d) { return {d.a - d.c, d.b + d.c, d.c - d.b, d.b - d.d}; }

// A^T m: r = 3 gives two outputs, r = 2 three.
template <int M>
FI_INLINE Quad output_transform(const Quad& m) {
  if (M == 2) return {m.a + m.b + m.c, m.b - m.c - m.d, vfloat{}, vfloat{}};
  const vfloat even = m.b + m.c;
  return {m.a + even, m.b - m.c, even - m.d, vfloat{}};
}

// A dy.
template <int M>
FI_INLINE Quad upstream_transform(const Quad& dy) {
  if (M == 2) return {dy.a, dy.a + dy.b, dy.a - dy.b, -dy.b};
  const vfloat even = dy.a + dy.c;
  return {dy.a, even + dy.b, even - dy.b, -dy.c};
}

// G w.
template <int R>
FI_INLINE Quad weight_transform(const Quad& w) {
  if (R == 2) return {w.a, 0.5f * (w.a + w.b), 0.5f * (w.a - w.b), w.b};
  const vfloat even = w.a + w.c;
  return {w.a, 0.5f * (even + w.b), 0.5f * (even - w.b), w.c};
}

// G^T u.
template <int R>
FI_INLINE Quad weight_grad_transform(const Quad& u) {
  const vfloat even = 0.5f * (u.b + u.c), odd = 0.5f * (u.b - u.c);
  if (R == 2) return {u.a + even, odd + u.d, vfloat{}, vfloat{}};
  return {u.a + even, odd, even + u.d, vfloat{}};
}

// Rows of a 4 x 4 array of vectors from its columns.
FI_INLINE Quad row(const Quad& p, const Quad& q, const Quad& r, const Quad& s, int i) {
  if (i == 0) return {p.a, q.a, r.a, s.a};
  if (i == 1) return {p.b, q.b, r.b, s.b};
  if (i == 2) return {p.c, q.c, r.c, s.c};
  return {p.d, q.d, r.d, s.d};
}

template <int NV>
FI_INLINE void multiply_add(float a, vfloat b0, vfloat b1, vfloat& c0, vfloat& c1) {
  c0 += b0 * a;
  if (NV == 2) c1 += b1 * a;
  asm volatile("" ::: "memory");  // keeps GCC from loading all a first, for which it would spill the sums
}

// c[i, :] (+)= sum_k a[i * ROW + k * STEP] * b[k, :] for the rows I and NV vectors of columns; b's rows are B_ROW
// apart, c's c_row. All sums of the block stay in registers.
template <int NV, int ROW, int STEP, int B_ROW, int... I>
void register_block(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add,
                    std::integer_sequence<int, I...>) {
  vfloat first[sizeof...(I)], second[sizeof...(I)];
  ((first[I] = second[I] = vfloat{}), ...);
  for (int64_t k = 0; k < depth; ++k, a += STEP, b += B_ROW) {
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

template <int NV, int ROW, int STEP, int B_ROW, int ROWS>
void register_block_of(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add) {
  register_block<NV, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, std::make_integer_sequence<int, ROWS>());
}

// The same for any number of rows, cut into register blocks of nearly equal height.
template <int NV, int ROW, int STEP, int B_ROW, int... I>
void product_by(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
                std::integer_sequence<int, I...>) {
  using Kernel = void (*)(const float*, const float*, int64_t, float*, int64_t, bool);
  static constexpr Kernel kernels[] = {register_block_of<NV, ROW, STEP, B_ROW, I + 1>...};
  for (int64_t panels = (rows + kRows - 1) / kRows; panels > 0; --panels) {
    const int64_t height = (rows + panels - 1) / panels;
    for (int64_t k = 0; k < depth; k += kChain) {
      const int64_t terms = depth - k < kChain ? depth - k : kChain;
      kernels[height - 1](a + k * STEP, b + k * B_ROW, terms, c, c_row, add || k);
    }
    a += height * ROW;
    c += height * c_row;
    rows -= height;
  }
}

template <int ROW, int STEP, int B_ROW>
void product(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
             bool two_vectors) {
  constexpr auto heights = std::make_integer_sequence<int, kRows>();
  if (two_vectors) return product_by<2, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, heights);
  product_by<1, ROW, STEP, B_ROW>(a, b, depth, c, c_row, add, rows, heights);
}

}  // namespace
