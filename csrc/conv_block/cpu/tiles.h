// Where a tile's pixels lie, and how they are transformed. For simd_*.cpp.
#pragma once

#include <type_traits>

#include "conv_block/cpu/winograd_transforms.h"

namespace {

// A tile of the output: sample, frame, sub-image and place in it.
struct Tile {
  int n, t, residue_y, residue_x, y, x;
};

inline Tile tile_at(const fi::Form& form, int64_t index) {
  Tile tile;
  tile.x = static_cast<int>(index % form.tiles_x);
  index /= form.tiles_x;
  tile.y = static_cast<int>(index % form.tiles_y);
  index /= form.tiles_y;
  tile.residue_x = static_cast<int>(index % form.residues_x);
  index /= form.residues_x;
  tile.residue_y = static_cast<int>(index % form.residues_y);
  index /= form.residues_y;
  tile.t = static_cast<int>(index % form.shape.frames_out);
  tile.n = static_cast<int>(index / form.shape.frames_out);
  return tile;
}

// Pixel numbers of a SIDE x SIDE patch (or its first m x m), -1 where it leaves the map.
template <int SIDE>
struct PatchOf {
  int64_t pixel[SIDE][SIDE];
  bool inside;  // nothing is -1
};
using Patch = PatchOf<4>;

template <int SIDE>
PatchOf<SIDE> patch(int64_t frame, int y, int x, int step_y, int step_x, int64_t height, int64_t width, int size) {
  PatchOf<SIDE> p;
  p.inside = true;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      const int64_t row = y + i * step_y, column = x + j * step_x;
      const bool valid = row >= 0 && row < height && column >= 0 && column < width;
      p.pixel[i][j] = valid ? (frame * height + row) * width + column : -1;
      p.inside &= valid;
    }
  }
  return p;
}

// The inputs of a tile; false where its frame is outside the video.
template <int SIDE>
bool input_patch(const fi::Form& form, const fi::Use& use, const Tile& tile, PatchOf<SIDE>& out) {
  const int64_t t = tile.t + use.frame;
  if (t < 0 || t >= form.shape.frames_in) return false;
  const int y = use.first_y + tile.residue_y + form.step_in_y * (form.m * tile.y + use.origin_y);
  const int x = use.first_x + tile.residue_x + form.step_in_x * (form.m * tile.x + use.origin_x);
  out = patch<SIDE>(tile.n * form.shape.frames_in + t, y, x, form.step_in_y, form.step_in_x, form.shape.height_in,
                    form.shape.width_in, SIDE);
  return true;
}

template <int SIDE = 4>
PatchOf<SIDE> output_patch(const fi::Form& form, const fi::Group& group, const Tile& tile) {
  const int y = group.first_y + tile.residue_y + form.step_out_y * form.m * tile.y;
  const int x = group.first_x + tile.residue_x + form.step_out_x * form.m * tile.x;
  return patch<SIDE>(tile.n * form.shape.frames_out + tile.t, y, x, form.step_out_y, form.step_out_x,
                     form.shape.height_out, form.shape.width_out, form.m);
}

// Where the values of a transformed tile go, one vector of channels c after another: SLAB values apart.
template <class S, int64_t SLAB>
struct Places {
  S* to;
  FI_INLINE void operator()(int place, int64_t c, vfloat v) const { store(to + place * SLAB + c, v); }
};

// The first SIDE places of a row, which begins at `place`.
template <int SIDE, class Out>
FI_INLINE void put_row(const Out& out, int place, int64_t c, const Quad& v) {
  out(place, c, v.a);
  out(place + 1, c, v.b);
  out(place + 2, c, v.c);
  if (SIDE == 4) out(place + 3, c, v.d);
}

// out(place, c) = (B^T d B)[place] for `depth` channels of one source from `first` on.
template <class T, class R, bool INSIDE, class Out>
void transform_input(const fi::Source& source, int64_t first, int64_t depth, const Patch& p, const Out& out) {
  for (int64_t c = 0; c < depth; c += kLanes) {
    const R read(source, first + c);
    auto column = [&](int j) {
      return T::input({read.template at<INSIDE>(p.pixel[0][j]), read.template at<INSIDE>(p.pixel[1][j]),
                       read.template at<INSIDE>(p.pixel[2][j]), read.template at<INSIDE>(p.pixel[3][j])});
    };
    const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
    for (int i = 0; i < T::side; ++i) put_row<T::side>(out, 4 * i, c, T::input(row(c0, c1, c2, c3, i)));
  }
}

// Asks for the cache lines of `depth` channels from `first` on at a patch's size x size pixels. Tiles leap about in the
// map, which no prefetcher of the machine foresees: without this half of the weight gradient's time is waiting.
template <class S, int SIZE, int SIDE>
FI_INLINE void prefetch(const fi::Source& source, int64_t first, int64_t depth, const PatchOf<SIDE>& p) {
  constexpr int64_t kLine = 64 / sizeof(S);  // values
  for (const void* map : {source.x, source.addend}) {
    if (!map) continue;
    const S* from = static_cast<const S*>(map) + first;
    for (int i = 0; i < SIZE; ++i) {
      for (int j = 0; j < SIZE; ++j) {
        if (p.pixel[i][j] < 0) continue;
        const S* begin = from + p.pixel[i][j] * source.channels;
        for (const S* line = begin; line < begin + depth; line += kLine) __builtin_prefetch(line);
      }
    }
  }
}

}  // namespace
