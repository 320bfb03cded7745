// The weight's gradient from its transformed sums, 16 channels of each side at a time: then whole lines are written,
// also where input channels lie side by side. For simd_*.cpp.
#pragma once

#include "conv_block/cpu/transpose.h"
#include "conv_block/cpu/weight_grad.h"

namespace fi::FI_ISA {
namespace {

constexpr int kSquare = 16;  // channels of each side
template <class W>
using SquareTaps = W[3][3][kSquare][kSquare];

// taps[i][j][k][n] of the input channels [k0, k0 + 16) and the output channels [n0, n0 + 16).
template <class T, class W>
void square_taps(const WeightGrad& args, int number, int64_t k0, int64_t n0, SquareTaps<W>& taps) {
  const Form& form = *args.form;
  const Block& block = form.block[number];
  const int64_t channels_out = form.shape.channels_out, place = args.place_size();
  const float* base = args.product + number * args.block_size() + k0 * channels_out + n0;
  for (int k = 0; k < kSquare; ++k, base += channels_out) {
    for (int at = 0; at < form.places; ++at) __builtin_prefetch(base + at * place + kUnpackAhead * channels_out);
    for (int n = 0; n < kSquare; n += kLanes) {
      auto total = [&](int at) {
        if (!block.lives(at)) return vfloat{};
        vfloat sum = load(base + at * place + n);
        for (int64_t split = 1; split < args.splits; ++split) {
          sum += load(base + at * place + n + split * args.split_size());
        }
        return sum;
      };
      auto column = [&](int j) { return T::weight_grad({total(j), total(4 + j), total(8 + j), total(12 + j)}); };
      const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
      for (int i = 0; i < T::r; ++i) {
        const Quad v = T::weight_grad(row(c0, c1, c2, c3, i));
        store(taps[i][0][k] + n, v.a);
        store(taps[i][1][k] + n, v.b);
        store(taps[i][2][k] + n, v.c);
      }
    }
  }
}

// Writes one tap of a square. Where input channels lie side by side, whole lines are written.
template <class W>
void write_square(const W (*taps)[kSquare], W* to, const Taps& dw) {
#if FI_BYTES == 64
  if constexpr (std::is_same<W, float>::value) {
    if (dw.in == 1) {
      vfloat columns[kSquare];
      transpose(taps[0], kSquare, columns);
      for (int n = 0; n < kSquare; ++n) store(to + n * dw.out, columns[n]);
      return;
    }
  }
#endif
  for (int n = 0; n < kSquare; ++n)
    for (int k = 0; k < kSquare; ++k) to[k * dw.in + n * dw.out] = taps[k][n];
}

// item = block * (channels_out / 16) + group of 16 output channels: writes dw's taps of that block.
template <class W>
void unpack_squares(const WeightGrad& args, const Taps& dw, int64_t item) {
  const Form& form = *args.form;
  const int64_t groups = form.shape.channels_out / kSquare, n0 = item % groups * kSquare;
  const int number = static_cast<int>(item / groups);
  const Block& block = form.block[number];
  alignas(64) SquareTaps<W> taps;
  for (int64_t k0 = 0; k0 < form.shape.channels_in; k0 += kSquare) {
    with_tiling(form, [&](auto tiling) { square_taps<decltype(tiling), W>(args, number, k0, n0, taps); });
    W* corner = static_cast<W*>(dw.data) + k0 * dw.in + n0 * dw.out + block.kt * dw.t;
    for (int i = 0; i < form.r; ++i) {
      for (int j = 0; j < form.r; ++j) {
        if (block.ky[i] < 0 || block.kx[j] < 0) continue;
        write_square(taps[i][j], corner + block.ky[i] * dw.y + block.kx[j] * dw.x, dw);
      }
    }
  }
}

}  // namespace
}  // namespace fi::FI_ISA
