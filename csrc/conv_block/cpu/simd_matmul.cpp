// Forward and data gradient of matmul.h.
#include <cstring>

#include "conv_block/cpu/matmul_tile.h"

namespace fi::FI_ISA {

void matmul_chunk(int64_t* channels) { *channels = kChunk; }

// item = phase * chunks + chunk. Parts of the depth follow each other, of a part its channels.
void pack_matmul(const Matmul& m, const Taps& w, int64_t item, float* packed) {
  const MatmulPhase& p = m.phases[item / m.chunks];
  const int64_t number = item % m.chunks;
  for_chunks(m, number, number + 1, [&](const Target& target, int64_t c, int64_t width, int64_t chunk) {
    float* to = packed + (p.first_depth * m.chunks + chunk * p.depth) * kChunk;
    for (const DepthPart* part = p.parts; part < p.parts + p.part_count; ++part) {
      const float* from = static_cast<const float*>(w.data) + part->first * w.in + (target.first + c) * w.out +
                          part->tap[0] * w.t + part->tap[1] * w.y + part->tap[2] * w.x;
      if (w.out <= w.in) {
        for (int64_t k = 0; k < part->width; ++k, to += kChunk) {
          if (w.out == 1 && width == kChunk) {
            std::memcpy(to, from + k * w.in, kChunk * sizeof(float));
            continue;
          }
          for (int64_t n = 0; n < kChunk; ++n) to[n] = n < width ? from[k * w.in + n * w.out] : 0.0f;
        }
        continue;
      }
      for (int64_t n = 0; n < kChunk; ++n) {
        for (int64_t k = 0; k < part->width; ++k) to[k * kChunk + n] = n < width ? from[k * w.in + n * w.out] : 0.0f;
      }
      to += part->width * kChunk;
    }
  });
}

// item = tile * parts + part of the chunks.
void matmul(const Matmul& m, int64_t item) {
  const int64_t tile = item / m.parts(), begin = item % m.parts() * m.part;
  const int64_t end = begin + m.part < m.chunks ? begin + m.part : m.chunks;
  const MatmulPhase* p = m.phases;
  while (p + 1 < m.phases + m.phase_count && p[1].first_tile <= tile) ++p;
  const TilePixels pixels(m, *p, (tile - p->first_tile) * m.tile_pixels, m.pixels_of(*p, tile));
  const int64_t slab = m.tile_pixels * kRow;
  float* results = scratch(Scratch::tiles, kStep * kChunk + m.slices * slab + kLanes);
  float* values = results + kStep * kChunk;
  fill_tile(m, *p, pixels, 0, p->slices, slab, kRow, values);
  Ahead ahead(values);
  const int64_t next = (item + m.threads) / m.parts();
  if (m.in_place && next > tile && next < m.tiles) {
    expect_parts(ahead, m, *p, 0, p->slices, next * m.tile_pixels, m.pixels_of(*p, next));
  }
  multiply_tile(m, *p, pixels, tile, begin, end, values, results, ahead);
  end_stream();
}

}  // namespace fi::FI_ISA
