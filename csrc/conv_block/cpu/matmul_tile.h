// One tile of matmul.h: where its pixels lie, their activations, and its results. For simd*.cpp.
#pragma once

#include <cstring>

#include "conv_block/cpu/matmul.h"
#include "conv_block/cpu/product.h"
#include "conv_block/cpu/rows.h"

namespace {

// Pixels [begin, begin + count) of a phase, in the order of the grid: where each lies in the band, and its number in
// the grid's map.
struct TilePixels {
  int64_t count;
  int32_t place[fi::kMostPixels][3];  // scale * j, along t, y, x
  int32_t sample[fi::kMostPixels];
  int64_t pixel[fi::kMostPixels];

  TilePixels(const fi::Matmul& m, const fi::MatmulPhase& p, int64_t begin, int64_t size) : count(size) {
    if (m.in_place) {
      for (int64_t i = 0; i < count; ++i) pixel[i] = begin + i;
      return;
    }
    int64_t j[3];
    int64_t rest = begin;
    for (int a = 2; a >= 0; --a) {
      j[a] = rest % p.count(a);
      rest /= p.count(a);
    }
    for (int64_t i = 0; i < count; ++i) {
      int64_t number = rest;
      for (int a = 0; a < 3; ++a) {
        place[i][a] = static_cast<int32_t>(p.axis[a]->scale * j[a]);
        number = number * m.map.grid[a] + p.axis[a]->first + p.axis[a]->step * j[a];
      }
      sample[i] = static_cast<int32_t>(rest);
      pixel[i] = number;
      for (int a = 2; a >= 0; --a) {
        if (++j[a] < p.count(a)) break;
        j[a] = 0;
        if (a == 0) ++rest;
      }
    }
  }
  // Pixels of the band that a tap reads, -1 for padding.
  void band_pixels(const fi::Matmul& m, const int* offset, int64_t* to) const {
    if (m.in_place) {
      std::memcpy(to, pixel, count * sizeof(int64_t));
      return;
    }
    const int64_t* size = m.map.band;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t t = place[i][0] + offset[0], y = place[i][1] + offset[1], x = place[i][2] + offset[2];
      const bool inside = t >= 0 && t < size[0] && y >= 0 && y < size[1] && x >= 0 && x < size[2];
      to[i] = inside ? ((sample[i] * size[0] + t) * size[1] + y) * size[2] + x : -1;
    }
  }
};

// values[slice - first][pixel][row]: the activations of the parts of slices [first, last).
inline void fill_tile(const fi::Matmul& m, const fi::MatmulPhase& p, const TilePixels& pixels, int64_t first,
                      int64_t last, int64_t slab, int64_t row, float* values) {
  const int* seen = nullptr;
  int64_t band[fi::kMostPixels];
  for (const fi::DepthPart* part = p.parts; part < p.parts + p.part_count; ++part) {
    if (part->slice < first || part->slice >= last) continue;
    if (!seen || seen[0] != part->offset[0] || seen[1] != part->offset[1] || seen[2] != part->offset[2]) {
      pixels.band_pixels(m, part->offset, band);
      seen = part->offset;
    }
    float* to = values + (part->slice - first) * slab + part->at;
    read_rows(
        m.sources[part->source], part->channel, part->width, pixels.count, [&](int64_t i) { return band[i]; }, to, row);
  }
}

constexpr int64_t kStep = 28;  // pixels between product and epilogue: results stay in the first cache

// Calls f(target, first channel, width, chunk number) for the chunks [begin, end) of output channels.
template <class F>
void for_chunks(const fi::Matmul& m, int64_t begin, int64_t end, F f) {
  int64_t chunk = 0;
  for (int i = 0; i < m.target_count; ++i) {
    const int64_t channels = m.targets[i].channels;
    for (int64_t c = 0; c < channels; c += kChunk, ++chunk) {
      if (chunk < begin || chunk >= end) continue;
      f(m.targets[i], c, channels - c < kChunk ? channels - c : kChunk, chunk);
    }
  }
}

// Asks for the activations of the parts of some slices at `count` pixels from `first` on.
inline void expect_parts(Ahead& ahead, const fi::Matmul& m, const fi::MatmulPhase& p, int64_t begin_slice,
                         int64_t end_slice, int64_t first, int64_t count) {
  for (const fi::DepthPart* part = p.parts; part < p.parts + p.part_count; ++part) {
    if (part->slice < begin_slice || part->slice >= end_slice) continue;
    ahead.add(m.sources[part->source], part->channel, part->width, first, count);
  }
}

// The chunks [begin, end) of a tile's results from its rows of all slices, and their epilogues. results [kStep,
// kChunk].
inline void multiply_tile(const fi::Matmul& m, const fi::MatmulPhase& p, const TilePixels& pixels, int64_t tile,
                          int64_t begin, int64_t end, const float* values, float* results, Ahead& ahead) {
  const int64_t slab = m.tile_pixels * fi::kRow, rows = pixels.count;
  for_chunks(m, begin, end, [&](const fi::Target& t, int64_t c, int64_t width, int64_t chunk) {
    const float* packed = m.packed + (p.first_depth * m.chunks + chunk * p.depth) * kChunk;
    fi::Target target = t;
    target.past_caches &= t.channels % 16 == 0;
    with_epilogues(target, c, width, [&](auto& epilogues) {
      const int vectors = width > kLanes ? 2 : 1;
      for (int64_t row = 0; row < rows; row += kStep) {
        const int64_t count = rows - row < kStep ? rows - row : kStep;
        for (int64_t i = row; i < row + count; ++i) {
          for (int v = 0; v < vectors; v += kLineVectors) epilogues[v].expect(pixels.pixel[i]);
        }
        if (p.slices == 0) std::memset(results, 0, count * kChunk * sizeof(float));
        const float* weights = packed;
        for (int64_t slice = 0; slice < p.slices; ++slice) {
          const int64_t depth = p.slice_depth[slice];
          product<fi::kRow, 1, kChunk>(values + slice * slab + row * fi::kRow, weights, depth, results, kChunk,
                                       slice > 0, count, vectors == 2, ahead);
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
}

}  // namespace
