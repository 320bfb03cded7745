// The weights of `correlate` between bfloat16 maps: pairs of input channels. For simd_bf16*.cpp.
#pragma once

#include "conv_block/cpu/correlate.h"
#include "conv_block/cpu/rounded.h"
#include "conv_block/cpu/transpose.h"

namespace fi::FI_ISA {
namespace {

// As `read_taps`, by whole lines also where input channels lie side by side.
template <class W>
void read_taps_by_lines(const Form& form, const Block& block, const Taps& w, int64_t k0, int64_t first, int64_t width,
                        PackTaps& taps) {
#if FI_BYTES == 64
  if constexpr (std::is_same<W, float>::value) {
    if (w.in == 1) {
      const float* corner = static_cast<const float*>(w.data) + k0 + first * w.out + block.kt * w.t;
      for (int i = 0; i < form.r; ++i) {
        for (int j = 0; j < form.r; ++j) {
          if (block.ky[i] < 0 || block.kx[j] < 0) continue;
          for (int64_t n = 0; n < width; n += kLanes) {
            vfloat columns[kPackRows];
            transpose(corner + n * w.out + block.ky[i] * w.y + block.kx[j] * w.x, w.out, columns);
            for (int k = 0; k < kPackRows; ++k) store(taps[i][j][k] + n, columns[k]);
          }
        }
      }
      return;
    }
  }
#endif
  read_taps<W>(form, block, w, k0, first, width, taps);
}

// G w G^T for one input channel and one vector of output channels.
template <class T>
FI_INLINE Rounded<T> rounded_weight(const PackTaps& taps, int k, int lane) {
  auto column = [&](int j) {
    return T::weight({load(taps[0][j][k] + lane), load(taps[1][j][k] + lane),
                      T::r == 3 ? load(taps[2][j][k] + lane) : vfloat{}, vfloat{}});
  };
  const Quad c0 = column(0), c1 = column(1), c2 = T::r == 3 ? column(2) : Quad{};
  Rounded<T> out;
  for (int i = 0; i < T::side; ++i) out.put(i, T::weight(row(c0, c1, c2, Quad{}, i)));
  return out;
}

// As `pack_item`, of pairs.
template <class W>
void pack_pairs(const Correlation& args, const Taps& w, int64_t item, Pair* packed) {
  const Form& form = *args.form;
  int64_t first = 0, width = 0;
  const int64_t chunk = item % args.chunks;
  for_chunks(args, chunk, chunk + 1, [&](const Target& target, int64_t c, int64_t own_width, int64_t) {
    first = target.first + c;
    width = own_width;
  });
  const int64_t place = form.shape.channels_in / 2 * kChunk;
  Pair* out = packed + item * 16 * place;
  alignas(64) PackTaps taps = {};
  for (int64_t k0 = 0; k0 < form.shape.channels_in; k0 += kPackRows) {
    read_taps_by_lines<W>(form, form.block[item / args.chunks], w, k0, first, width, taps);
    with_tiling(form, [&](auto tiling) {
      using T = decltype(tiling);
      for (int k = 0; k < kPackRows; k += 2, out += kChunk) {
        for (int lane = 0; lane < kChunk; lane += kLanes) {
          store_rounded(out + lane, place, rounded_weight<T>(taps, k, lane), rounded_weight<T>(taps, k + 1, lane));
        }
      }
    });
  }
}

}  // namespace
}  // namespace fi::FI_ISA
