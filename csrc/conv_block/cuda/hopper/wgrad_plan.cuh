// Decides when wgrad runs on wgmma, and plans it. The kernel is in hopper/wgrad.cu, which is compiled for sm_90a only
// and may be missing from a library.
#pragma once
#include "conv_block/cuda/hopper/strips.cuh"

namespace fi {

constexpr int kStripWgradTaps = 3;       // per warpgroup at most: 192 sums per thread
constexpr int kStripWgradColumns = 128;  // of Q per block
constexpr int kMostWgradStages = 4;

// A unit is a group of taps x 64 channels of P. A block has two units, one per warpgroup, and 128 channels of Q.
struct StripWgrad {
  GatherParams p;                  // taps and sizes, from P to the positions j
  Strips rows, columns;            // P's and Q's
  bool rows_given, columns_given;  // an earlier kernel has written them
  StripTaps taps;
  int units, q_tiles;
  int p_channels, q_channels;  // in all
  int tiles, tiles_each, splits, stages;
  float* partial;  // [split][tap][p][q]

  __host__ __device__ int row_chunks() const { return rows.chunks[0] + rows.chunks[1]; }
  __host__ __device__ int q_plane() const { return kStripRows * columns.columns; }  // positions of a tile's plane
  __host__ __device__ int q_bytes() const { return kStripWgradColumns / kVector * q_plane() * 16; }
  __host__ __device__ int stage_bytes() const { return kConsumers * taps.patch_bytes(rows) + q_bytes(); }
  int shared_bytes() const {
    return shared_part(2 * stages * int(sizeof(uint64_t))) + shared_part(stages * stage_bytes());
  }
};

}  // namespace fi

// Writes the strips and the partials. Null if the library has no code for sm_90a.
FI_EXPORT __attribute__((weak)) int fi_hopper_wgrad_launch(int dtype, const fi::StripWgrad* w, void* stream);

namespace fi {

// Whether wgrad can use wgmma and should be faster on it.
inline bool strip_wgrad_applies(const Conv& conv) {
  if (!conv.hopper || !fi_hopper_wgrad_launch || size_of(conv.dtype) != 2 || conv.groups > 1) return false;
  int in = in_channels(conv), out = conv.out_channels;
  if (std::min(in, out) <= kThinChannels) return false;
  return conv.hopper == 2 || (std::max(in, out) >= kWideChannels && std::min(in, out) >= kNarrowChannels);
}

inline void plan_strip_sources(const Conv& conv, bool gradient, int multiple, Strips& s) {
  int count = gradient ? 1 : conv.sources;
  s.chunks[1] = 0;
  for (int i = 0; i < count; ++i) {
    s.source[i] = gradient ? conv.gradient : conv.source[i];
    s.chunks[i] = round_up(ceil_div(s.source[i].channels, kStripChunk), multiple);
  }
}

// Whether strips that dgrad wrote serve as Q's: they have position j itself of every tile, and the same channels.
inline bool serves_q(const Strips& s, const Strips& q) {
  return s.step[0] == 1 && s.step[1] == 1 && s.low[0] <= 0 && s.low[1] <= 0 && s.rows + s.low[0] >= q.rows &&
         s.columns + s.low[1] >= kStripColumns && s.count >= q.count && s.chunks[0] == q.chunks[0];
}

// Whether they serve as P's (of a transposed convolution).
inline bool serves_p(const Strips& s, const Strips& p) {
  return s.low[0] == p.low[0] && s.low[1] == p.low[1] && s.rows == p.rows && s.columns == p.columns &&
         s.count == p.count && s.chunks[0] == p.chunks[0];
}

// Plans all but the splits. given: the strips of G that dgrad has written, or null. Returns false if the taps or a
// block's memory do not fit, or the given strips do not serve.
inline bool plan_strip_wgrad(const Conv& conv, StripWgrad& w, const Strips* given) {
  GatherParams& p = w.p;
  bool transposed = conv.transposed;
  if (!make_taps(conv, false, p.taps)) return false;
  p.batch = conv.batch;
  for (int d = 0; d < 3; ++d) {
    p.in_size[d] = transposed ? conv.out[d] : conv.in[d];
    p.out_size[d] = transposed ? conv.in[d] : conv.out[d];
  }
  int64_t tiles = plan_strip_tiles(p);
  if (tiles >= 1ll << 31) return false;
  w.tiles = int(tiles);
  w.p_channels = transposed ? conv.out_channels : in_channels(conv);
  w.q_channels = transposed ? in_channels(conv) : conv.out_channels;
  plan_strips(p.taps, p.batch, p.in_size, p.out_size + 1, w.rows);
  TapTable own = p.taps;  // Q's position j itself
  own.taps = 1, own.tap[0] = {0, 0, 0, 0, 0};
  for (int d = 0; d < 3; ++d) own.step[d] = 1;
  plan_strips(own, p.batch, p.out_size, p.out_size + 1, w.columns);
  plan_strip_sources(conv, transposed, 1, w.rows);
  plan_strip_sources(conv, !transposed, kStripWgradColumns / kStripChunk, w.columns);
  w.rows_given = given && transposed, w.columns_given = given && !transposed;
  if (given && !(transposed ? serves_p(*given, w.rows) : serves_q(*given, w.columns))) return false;
  if (given) (transposed ? w.rows : w.columns) = *given;
  w.q_tiles = (w.columns.chunks[0] + w.columns.chunks[1]) * kStripChunk / kStripWgradColumns;
  for (int most = std::min(kStripWgradTaps, p.taps.taps); most > 0; --most) {
    // a kernel row that needs several groups anyway is cut by its phases, so that a group loads a single one
    if (!group_taps(p.taps, w.rows, {true, conv.kernel[2] > most, most}, w.taps)) return false;
    w.units = (w.taps.first[1]) * w.row_chunks();
    for (w.stages = kMostWgradStages; w.stages >= 2; --w.stages)
      if (w.shared_bytes() <= kHopperShared) return true;
  }
  return false;
}

inline int strip_wgrad_blocks(const StripWgrad& w) { return ceil_div(w.units, kConsumers) * w.q_tiles; }

// Of a block and tile.
inline int64_t strip_wgrad_operations(const StripWgrad& w) {
  return int64_t(2) * kConsumers * w.taps.most * kStripChunk * kTileRows * kStripWgradColumns;
}

// Counts what the blocks copy and multiply, tile by tile.
inline Footprint strip_wgrad_footprint(const StripWgrad& w) {
  int blocks = strip_wgrad_blocks(w), chunks = w.row_chunks();
  Footprint found{int64_t(blocks) * w.splits, 0, w.shared_bytes(), kConsumers, kStripWgradColumns, 1, w.taps.most};
  for (int unit = 0; unit < w.units; unit += kConsumers) {
    const StripGroup& first = w.taps.group[unit / chunks];
    const StripGroup& second = w.taps.group[std::min(unit + 1, w.units - 1) / chunks];
    int64_t positions = int64_t(first.rows * first.pieces + second.rows * second.pieces) * w.rows.columns;
    for (int tile = 0; tile < w.tiles; ++tile) {
      Tile at = strip_tile(w.p, 0, tile);
      if (!is_live(w.rows, first, at, w.p.taps.step[0]) && !is_live(w.rows, second, at, w.p.taps.step[0])) continue;
      found.loads += w.q_tiles * (positions * kStripPlanes * 16 + w.q_bytes());
      found.multiplied += w.q_tiles * strip_wgrad_operations(w) / 2;
    }
  }
  found.staged = (w.rows_given ? 0 : strip_bytes(w.rows)) + (w.columns_given ? 0 : strip_bytes(w.columns));
  found.given = w.rows_given || w.columns_given;
  return found;
}

}  // namespace fi
