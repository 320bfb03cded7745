// Forward and data gradient of matmul.h.
#include <cstring>

#include "conv_block/cpu/matmul_tile.h"
#include "conv_block/cpu/product.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kStep = 28;  // pixels between product and epilogue: results stay in the first cache

// Calls f(target, first channel, width, chunk number) for the chunks [begin, end) of output channels.
template <class F>
void for_chunks(const Matmul& m, int64_t begin, int64_t end, F f) {
  int64_t chunk = 0;
  for (int i = 0; i < m.target_count; ++i) {
    const int64_t channels = m.targets[i].channels;
    for (int64_t c = 0; c < channels; c += kChunk, ++chunk) {
      if (chunk < begin || chunk >= end) continue;
      f(m.targets[i], c, channels - c < kChunk ? channels - c : kChunk, chunk);
    }
  }
}

}  // namespace

void matmul_chunk(int64_t* channels) { *channels = kChunk; }

// item = phase * chunks + chunk. Parts of the depth follow each other, of a part its channels.
void pack_matmul(const Matmul& m, const Taps& w, int64_t item, float* packed) {
  const MatmulPhase& p = m.phases[item / m.chunks];
  const int64_t number = item % m.chunks;
  for_chunks(m, number, number + 1, [&](const Target& target, int64_t c, int64_t width, int64_t chunk) {
    float* to = packed + (p.first_depth * m.chunks + chunk * p.depth) * kChunk;
    for (const DepthPart* part = p.parts; part < p.parts + p.part_count; ++part) {
      const float* from = static_cast<const float*>(w.data) + part->first * w.in + (target.first + c) * w.out + part->tap[0] * w.t +
                          part->tap[1] * w.y + part->tap[2] * w.x;
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
  const int64_t start = (tile - p->first_tile) * m.tile_pixels;
  const int64_t rows = p->pixels - start < m.tile_pixels ? p->pixels - start : m.tile_pixels;
  const TilePixels pixels(m, *p, start, rows);
  const int64_t slab = m.tile_pixels * kRow;
  float* results = scratch(Scratch::tiles, kStep * kChunk + m.slices * slab + kLanes);
  float* values = results + kStep * kChunk;
  fill_tile(m, *p, pixels, 0, p->slices, slab, kRow, values);
  Ahead ahead(values);
  const int64_t next = (item + m.threads) / m.parts();
  if (m.in_place && next > tile && next < m.tiles) {
    const int64_t first = next * m.tile_pixels, rest = p->pixels - first;
    for (const DepthPart* part = p->parts; part < p->parts + p->part_count; ++part) {
      ahead.add(m.sources[part->source], part->channel, part->width, first,
                rest < m.tile_pixels ? rest : m.tile_pixels);
    }
  }
  for_chunks(m, begin, end, [&](const Target& t, int64_t c, int64_t width, int64_t chunk) {
    const float* packed = m.packed + (p->first_depth * m.chunks + chunk * p->depth) * kChunk;
    Target target = t;
    target.past_caches &= t.channels % 16 == 0;
    with_epilogues(target, c, width, [&](auto& epilogues) {
      const int vectors = width > kLanes ? 2 : 1;
      for (int64_t row = 0; row < rows; row += kStep) {
        const int64_t count = rows - row < kStep ? rows - row : kStep;
        for (int64_t i = row; i < row + count; ++i) {
          for (int v = 0; v < vectors; v += kLineVectors) epilogues[v].expect(pixels.pixel[i]);
        }
        if (p->slices == 0) std::memset(results, 0, count * kChunk * sizeof(float));
        const float* weights = packed;
        for (int64_t slice = 0; slice < p->slices; ++slice) {
          const int64_t depth = p->slice_depth[slice];
          product<kRow, 1, kChunk>(values + slice * slab + row * kRow, weights, depth, results, kChunk, slice > 0,
                                   count, vectors == 2, ahead);
          weights += depth * kChunk;
        }
        auto pixel = [&](int64_t i) { return pixels.pixel[row + i]; };
        for (int v = 0; v < vectors; ++v) epilogues[v](results + v * kLanes, kChunk, count, pixel);
        write_lines(target, c, results, kChunk, count, pixel);
      }
      for (int v = 0; target.sums && v < vectors; ++v) {
        epilogues[v].finish(target.sums + tile * epilogues[v].count * target.channels + c + v * kLanes);
      }
    });
  });
  end_stream();
}

}  // namespace fi::FI_ISA
