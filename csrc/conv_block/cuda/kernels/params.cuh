// Parameters of the gathering kernels (forward, dgrad). plan/plan.cuh fills them on the host; kernels only read them.
#pragma once
#include "conv_block/cuda/kernels/load.cuh"
#include "conv_block/cuda/plan/taps.cuh"

namespace fi {

// The origin of a patch: the box of input positions that one group's taps read for one tile.
struct PatchOrigin {
  int16_t t, h, w, unused;  // offset of a group's first position
};

// A range of output channels: y in forward, one source in dgrad.
struct Segment {
  int channels, first_column;  // first_column: of the packed weights
  int first_tile;              // first blockIdx.y
  Source source;               // dgrad: the source whose backward is applied
  SourceGradient out;          // dgrad
  void* y;                     // forward
  const void* bias;            // forward, or null
  Partials partials;           // value is null if no sums are needed
};

// Channels per group of the two sides of a product: n of the results, k of what is summed. Zeros: no groups.
struct Groups {
  int k, n;

  // The first channel of k, rounded down to a whole vector, that results from channel n on need.
  __host__ __device__ int first(int channel) const { return channel / n * k / kVector * kVector; }
};

struct GatherParams {
  TapTable taps;
  PatchOrigin origin[kMaxTaps];  // of each group
  PatchShape patch;
  int tile_bits;  // a tile is 128 >> tile_bits rows of 1 << tile_bits positions
  int batch, in_size[3], out_size[3];
  int tiles[3];               // of the largest phase, over T, H, W
  int all_tiles, tiles_each;  // depthwise: of all phases; of a block
  int backward;
  int sources, chunks[2];  // chunks of kChunk channels of each source; with groups, of a column tile
  Groups group;
  Source source[2];
  int planes, pairs;        // thin: distinct t of the taps; entries of eight k columns
  int pair_step, kernel_w;  // thin: from a tap's position to the next one's along W; taps along W
  const void* weight;       // packed: [tap][k_padded][n_padded], thin: [k_padded][n_padded]
  int k_padded, n_padded;
  int segments;
  Segment segment[2];
};

// One tile of one phase.
struct Tile {
  int phase, n, t, h, w;  // t, h, w: first position, in steps of the phase
  int rows, columns;      // number of positions from there on
};

__device__ inline Tile find_tile(const GatherParams& p, int block) {
  Tile tile;
  tile.w = block % p.tiles[2] << p.tile_bits;
  block /= p.tiles[2];
  tile.h = block % p.tiles[1] * (kTileRows >> p.tile_bits);
  block /= p.tiles[1];
  tile.t = block % p.tiles[0];
  block /= p.tiles[0];
  tile.n = block % p.batch;
  tile.phase = block / p.batch;
  const Phase& phase = p.taps.phase[tile.phase];
  auto size = [&](int d) { return ceil_div(p.out_size[d] - phase.origin[d], p.taps.out_step[d]); };
  tile.rows = min(size(1) - tile.h, kTileRows >> p.tile_bits);
  tile.columns = min(size(2) - tile.w, 1 << p.tile_bits);
  if (tile.t >= size(0)) tile.rows = 0;
  return tile;
}

__device__ inline Tile find_tile(const GatherParams& p) { return find_tile(p, blockIdx.x); }

// Whether a tap reads inside the input for any position of the tile.
__device__ inline bool is_live(const GatherParams& p, const Tile& tile, const Tap& tap) {
  int t = tile.t * p.taps.step[0] + tap.t;
  int h = tile.h * p.taps.step[1] + tap.h, last_h = h + (tile.rows - 1) * p.taps.step[1];
  int w = tile.w * p.taps.step[2] + tap.w, last_w = w + (tile.columns - 1) * p.taps.step[2];
  return tile.rows > 0 && tile.columns > 0 && t >= 0 && t < p.in_size[0] && last_h >= 0 && h < p.in_size[1] &&
         last_w >= 0 && w < p.in_size[2];
}

// Appends `value` to `list` for each thread with keep, in thread order. Returns the number of entries.
__device__ inline int compact(bool keep, int2 value, int2* list, int* counts) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  unsigned bits = __ballot_sync(~0u, keep);
  if (lane == 0) counts[warp] = __popc(bits);
  __syncthreads();
  int before = 0, total = 0;
  for (int i = 0; i < kThreads / 32; ++i) {
    if (i < warp) before += counts[i];
    total += counts[i];
  }
  if (keep) list[before + __popc(bits & ((1u << lane) - 1))] = value;
  __syncthreads();
  return total;
}

}  // namespace fi
