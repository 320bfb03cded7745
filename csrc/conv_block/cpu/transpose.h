// A square of 16 x 16 floats, transposed in registers. For simd_*.cpp.
#pragma once

#include "conv_block/cpu/reader.h"

namespace {

#if FI_BYTES == 64
// to[j][i] = from[i * stride + j], i and j < 16: single lanes, pairs, fours and eights change places.
FI_INLINE void transpose(const float* from, int64_t stride, vfloat* to) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    const __m512 x = (__m512)load(from + i * stride), y = (__m512)load(from + (i + 1) * stride);
    a[i] = _mm512_unpacklo_ps(x, y);
    a[i + 1] = _mm512_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  }
  for (int i = 0; i < 16; i += 8) {
    for (int j = 0; j < 4; ++j) {
      a[i + j] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0x88);
      a[i + j + 4] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0xdd);
    }
  }
  for (int j = 0; j < 8; ++j) {
    to[j] = (vfloat)_mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
    to[j + 8] = (vfloat)_mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
  }
}
#endif

}  // namespace
