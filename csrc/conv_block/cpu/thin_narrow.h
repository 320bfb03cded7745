// The thin map from the wide one: see thin.h. Vectors lie along the wide channels and are summed across at the end.
#pragma once

#include "conv_block/cpu/thin_band.h"

namespace fi::FI_ISA {
namespace {

constexpr int kQuads = kLanes / 4;               // of a vector
constexpr int kPixels = FI_BYTES == 64 ? 4 : 2;  // of a register block: a multiple of kQuads

struct Row {
  int64_t step;  // floats from one pixel of the grid to the next in the band
  const Tap* taps;
  int64_t tap_count;
  const float* packed;  // [taps, vectors, thin_channels, kLanes]
  int64_t channels;     // wide
};

// to[c, p] (a vector) = sum over taps and vectors of channels of from[p * step + tap.offset] * packed[tap, c], in
// chains of kChain products. Not inline: what its callers hold would push the sums out of the registers.
template <int C>
__attribute__((noinline)) void block(const Row& row, const float* from, float* to) {
  const int64_t channels = row.channels, step = row.step;
  const int64_t chain = channels / kLanes < kChain ? kChain * kLanes / channels : 1;  // taps
  bool started = false;
  for (const Tap *tap = row.taps, *last = tap + row.tap_count; tap < last || !started; started = true) {
    vfloat sum[C][kPixels] = {};
    for (const Tap* end = last - tap < chain ? last : tap + chain; tap < end; ++tap) {
      const float* a = opaque(from + tap->offset);
      const float* w = row.packed + tap->number * channels * C;
      for (const float* end_w = w + channels * C; w < end_w; a += kLanes, w += C * kLanes) {
        vfloat b[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) b[c] = load(w + c * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          const vfloat x = load(a + p * step);
#pragma GCC unroll 4
          for (int c = 0; c < C; ++c) sum[c][p] += x * b[c];
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        float* at = to + (c * kPixels + p) * kLanes;
        store(at, started ? load(at) + sum[c][p] : sum[c][p]);
      }
    }
  }
}

// One quad for each of kQuads vectors, the sum of its quads.
FI_INLINE vfloat sum_quads(const float* v) {
#if FI_BYTES == 64
  const __m512 a = (__m512)load(v), b = (__m512)load(v + 16), c = (__m512)load(v + 32), d = (__m512)load(v + 48);
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return (vfloat)_mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
#elif FI_BYTES == 32
  const __m256 a = (__m256)load(v), b = (__m256)load(v + 8);
  return (vfloat)_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
#else
  return load(v);
#endif
}

// to[4 * q + c] = sum of quad q of v[c]. Sums of other lanes than those asked for are whatever they are.
FI_INLINE void sum_within_quads(const vfloat (&v)[4], float* to) {
#if FI_BYTES == 64
  const auto pair = [](vfloat a, vfloat b) {
    return _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b));
  };
  const __m512d ab = (__m512d)pair(v[0], v[1]), cd = (__m512d)pair(v[2], v[3]);
  store(to, (vfloat)_mm512_add_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd)));
#elif FI_BYTES == 32
  const auto pair = [](vfloat a, vfloat b) {
    return _mm256_add_ps(_mm256_unpacklo_ps((__m256)a, (__m256)b), _mm256_unpackhi_ps((__m256)a, (__m256)b));
  };
  const __m256d ab = (__m256d)pair(v[0], v[1]), cd = (__m256d)pair(v[2], v[3]);
  store(to, (vfloat)_mm256_add_ps((__m256)_mm256_unpacklo_pd(ab, cd), (__m256)_mm256_unpackhi_pd(ab, cd)));
#else
  for (int c = 0; c < 4; ++c) to[c] = (v[c][0] + v[c][2]) + (v[c][1] + v[c][3]);
#endif
}

// One value as a map stores it.
FI_INLINE void put(float* to, float v) { *to = v; }
FI_INLINE void put(Bf16* to, float v) { to->bits = static_cast<uint16_t>(rounded(v - vfloat{})[0]); }

template <class S, int C>
void run_piece(const Narrow& args, const Piece& piece, const Band& band, const float* values) {
  const ThinPlan& plan = *args.plan;
  const Phase &y = *piece.y, &x = *piece.x;
  const int64_t frame = piece.sample * plan.grid[0] + piece.t->first + piece.t->step * piece.frame;
  const Row line{x.scale * band.stride, band.taps, band.tap_count, args.packed, band.stride};
  alignas(64) float vectors[C * kPixels * kLanes], sums[kPixels * 4];
  for (int row = 0; row < piece.rows; ++row) {
    const float* from = values + row * y.scale * band.columns * band.stride;
    const int64_t pixel = (frame * plan.grid[1] + y.first + y.step * (piece.row + row)) * plan.grid[2];
    S* out = static_cast<S*>(args.out) + (pixel + x.first + x.step * piece.column) * C;
    for (int i = 0; i < piece.columns; i += kPixels) {
      block<C>(line, from + i * line.step, vectors);
      for (int p = 0; p < kPixels; p += kQuads) {
        vfloat quads[4] = {};
        for (int c = 0; c < C; ++c) quads[c] = sum_quads(vectors + (c * kPixels + p) * kLanes);
        sum_within_quads(quads, sums + 4 * p);
      }
      for (int p = 0; p < kPixels && i + p < piece.columns; ++p)
        for (int c = 0; c < C; ++c)
          put(out + (i + p) * x.step * C + c, sums[4 * p + c] + (args.bias ? args.bias[c] : 0));
    }
  }
}

// packed [taps, wide_channels / kLanes, thin_channels, kLanes].
inline void pack_narrow_taps(const Narrow& args, const Taps& w, float* packed) {
  const ThinShape& s = args.plan->shape;
  for (int64_t tap = 0; tap < args.plan->taps(); ++tap) {
    const float* from = static_cast<const float*>(w.data) + tap / (s.kernel[1] * s.kernel[2]) * w.t +
                        tap / s.kernel[2] % s.kernel[1] * w.y + tap % s.kernel[2] * w.x;
    for (int64_t k = 0; k < s.wide_channels; k += kLanes)
      for (int64_t thin = 0; thin < s.thin_channels; ++thin)
        for (int n = 0; n < kLanes; ++n) *packed++ = from[thin * w.in + (k + n) * w.out];
  }
}

template <class S>
void narrow_piece(const Narrow& args, int64_t number) {
  const Piece& piece = args.plan->pieces[number];
  const Band band(*args.plan, piece, kPixels, args.plan->shape.wide_channels);
  float* values = scratch(Scratch::tiles, band.size());
  fill_wide<S>(band, args.sources, args.source_count, values);
  with_thin(args.plan->shape.thin_channels, [&](auto c) { run_piece<S, c()>(args, piece, band, values); });
}

}  // namespace
}  // namespace fi::FI_ISA
