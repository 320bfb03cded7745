// The rows of one tile of matmul.h: where its pixels lie, and their activations. For simd*.cpp.
#pragma once

#include <cstring>

#include "conv_block/cpu/matmul.h"
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
    const int64_t *size = m.map.band;
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
    read_rows(m.sources[part->source], part->channel, part->width, pixels.count, [&](int64_t i) { return band[i]; }, to,
              row);
  }
}

}  // namespace
