// Strips: an operand of a convolution, activated once and written as bulk copies and wgmma read it.
//
//   strips  [frame][strip][plane][phase][row][column][8 channels]
//
// A position is 16 bytes: a plane's eight channels. Adjacent columns are adjacent, so eight of them are a core matrix
// of wgmma: eight rows of K-major (forward, dgrad) or eight k of MN-major (wgrad). A tile of 16 rows x 8 columns of
// outputs reads, for any tap, core matrices one row apart, and a tap's shift is a constant number of positions.
//
//   frame   n * T + t; one more plane of zeros follows the last frame
//   strip   eight output columns with the columns that their taps read left and right of them. Adjacent strips repeat
//           these. Where all shifts along W are multiples of eight, nothing is repeated and taps read other strips.
//   plane   eight channels; a source's channels are padded with zeros to whole chunks of 64
//   phase   of a stride: input position (row + low) * step + phase
//
// A patch is what the taps of a group read for one tile: `pieces` phases of consecutive rows, contiguous in each plane.
#pragma once
#include "conv_block/cuda/plan/plan.cuh"

namespace fi {

constexpr int kStripChunk = 64, kStripPlanes = kStripChunk / kVector;   // channels and planes of a step
constexpr int kStripRows = 16, kStripColumns = 8;                       // positions of a tile: kTileRows
constexpr int kStripBits = 3;                                           // as tile_bits of GatherParams
constexpr int kStripGroups = 32;                                        // per phase of the output: one lane each
constexpr int kWideChannels = 128, kNarrowChannels = 64;                // least of a layer's wider and narrower side
constexpr int kHopperShared = 227 << 10;                                // most bytes of shared memory per block
constexpr int kHopperSms = 132;                                         // of an H200
constexpr int kConsumers = 2, kHopperThreads = (kConsumers + 1) * 128;  // two warpgroups multiply, one copies
constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;        // of 168 that a block of 384 threads gets

struct Strips {
  int batch, in_size[3], step[2];  // step: along H and W
  int low[2];                      // row 0 and column 0 of the first strip, in steps
  int rows, columns;               // of a strip
  int count;                       // strips of a frame
  int chunks[2];                   // of each source
  Source source[2];
  void* data;

  __host__ __device__ int planes() const { return (chunks[0] + chunks[1]) * kStripPlanes; }
  __host__ __device__ int phases() const { return step[0] * step[1]; }
  __host__ __device__ int frames() const { return batch * in_size[0]; }

  // The first position of a plane's phase. Positions are counted in 16 bytes.
  __host__ __device__ int64_t at(int frame, int strip, int plane, int phase) const {
    return (((int64_t(frame) * count + strip) * planes() + plane) * phases() + phase) * rows * columns;
  }
  int64_t bytes() const { return (at(frames(), 0, 0, 0) + int64_t(rows) * columns) * 16; }
};

struct StripTap {
  int16_t at, index;  // in the patch, in positions; in the kernel
};

// Taps that share a patch.
struct StripGroup {
  int16_t t, strip;    // shift of the frame and strip
  int16_t phase, row;  // first of the patch, for a tile at row 0
  int16_t rows, pieces;
  int16_t first, count;  // of its taps
};

struct StripTaps {
  int first[kMaxPhases + 1];  // group of each phase of the output
  StripGroup group[kMaxTaps];
  StripTap tap[kMaxTaps];
  int rows, pieces, most;  // largest of all groups; taps of the largest group

  __host__ __device__ int piece(const Strips& s) const { return rows * s.columns; }           // positions
  __host__ __device__ int plane(const Strips& s) const { return pieces * rows * s.columns; }  // positions
  __host__ __device__ int patch_bytes(const Strips& s) const { return plane(s) * kStripPlanes * 16; }
};

// Whether the group's taps read inside the input for any position of the tile.
__host__ __device__ inline bool is_live(const Strips& s, const StripGroup& group, const Tile& tile, int step_t) {
  int t = tile.t * step_t + group.t, strip = tile.w / kStripColumns + group.strip;
  int first = tile.h + group.row + s.low[0], last = first + group.rows - 1;  // in steps
  return tile.rows > 0 && tile.columns > 0 && t >= 0 && t < s.in_size[0] && strip >= 0 && strip < s.count &&
         (last + 1) * s.step[0] > 0 && first * s.step[0] < s.in_size[1];
}

// Rows of a patch, from its first one.
struct PatchRows {
  int first, count;
};

// The rows of the group's patch that may hold something other than zeros.
__host__ __device__ inline PatchRows patch_rows(const Strips& s, const StripGroup& group, const Tile& tile) {
  int at = tile.h + group.row + s.low[0], first = max(0, -at);  // in steps
  return {first, max(0, min(int(group.rows), ceil_div(s.in_size[1], s.step[0]) - at) - first)};
}

// The tile of a phase of the output; H is the fastest axis, so that adjacent tiles read the same columns.
__host__ __device__ inline Tile strip_tile(const GatherParams& p, int phase, int index) {
  Tile tile;
  tile.phase = phase;
  tile.h = index % p.tiles[1] * kStripRows, index /= p.tiles[1];
  tile.w = index % p.tiles[2] * kStripColumns, index /= p.tiles[2];
  tile.t = index % p.tiles[0], tile.n = index / p.tiles[0];
  const Phase& of = p.taps.phase[phase];
  auto size = [&](int d) { return ceil_div(p.out_size[d] - of.origin[d], p.taps.out_step[d]); };
  tile.rows = tile.t < size(0) && tile.n < p.batch ? min(size(1) - tile.h, kStripRows) : 0;
  tile.columns = min(size(2) - tile.w, kStripColumns);
  return tile;
}

// Tiles of a phase.
inline int64_t plan_strip_tiles(GatherParams& p) {
  p.tile_bits = kStripBits;
  int extent[3] = {1, kStripRows, kStripColumns};
  int64_t tiles = p.batch;
  for (int d = 0; d < 3; ++d) tiles *= p.tiles[d] = ceil_div(ceil_div(p.out_size[d], p.taps.out_step[d]), extent[d]);
  return tiles;
}

inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// The geometry of the strips that these taps read for outputs of at most `out` positions along H and W.
inline void plan_strips(const TapTable& table, int batch, const int* in_size, const int* out, Strips& s) {
  int low[2] = {1 << 15, 1 << 15}, high[2] = {-(1 << 15), -(1 << 15)};
  bool whole = true;
  s.batch = batch;
  for (int d = 0; d < 3; ++d) s.in_size[d] = in_size[d];
  for (int d = 0; d < 2; ++d) s.step[d] = table.step[1 + d];
  for (int i = 0; i < table.taps; ++i) {
    int at[2] = {floor_div(table.tap[i].h, s.step[0]), floor_div(table.tap[i].w, s.step[1])};
    for (int d = 0; d < 2; ++d) low[d] = std::min(low[d], at[d]), high[d] = std::max(high[d], at[d]);
    whole = whole && at[1] % kStripColumns == 0;
  }
  s.low[0] = low[0], s.low[1] = whole ? 0 : low[1];
  s.rows = round_up(out[0], kStripRows) + high[0] - low[0];
  s.columns = kStripColumns + (whole ? 0 : high[1] - low[1]);
  s.count = ceil_div(whole ? ceil_div(in_size[2], s.step[1]) : out[1], kStripColumns);
}

// How taps are grouped. by_row: only taps of one kernel row (strips that repeat columns). by_phase: only taps of one
// phase along W. most: taps per group.
struct Grouping {
  bool by_row, by_phase;
  int most;
};

// Groups the taps. Returns false if a phase of the output has too many groups.
inline bool group_taps(const TapTable& table, const Strips& s, const Grouping& how, StripTaps& to) {
  bool whole = s.columns == kStripColumns;
  struct Place {
    int t, h, w, phase_h, phase_w, strip;
  };
  auto place = [&](const Tap& tap) {
    int h = floor_div(tap.h, s.step[0]), w = floor_div(tap.w, s.step[1]);
    return Place{tap.t,
                 h - s.low[0],
                 whole ? 0 : w - s.low[1],
                 tap.h - h * s.step[0],
                 tap.w - w * s.step[1],
                 whole ? floor_div(w, kStripColumns) : 0};
  };
  auto together = [&](const Place& a, const Place& b) {
    return a.t == b.t && a.phase_h == b.phase_h && a.strip == b.strip && (!how.by_row || whole || a.h == b.h) &&
           (!how.by_phase || a.phase_w == b.phase_w);
  };
  int groups = 0, taps = 0, members[kMaxTaps];
  bool taken[kMaxTaps] = {};
  to.rows = to.pieces = to.most = 0;
  for (int p = 0; p < table.phases; ++p) {
    const Phase& phase = table.phase[p];
    to.first[p] = groups;
    for (int i = phase.first; i < phase.first + phase.taps; ++i) {
      if (taken[i]) continue;
      Place first = place(table.tap[i]);
      StripGroup group{int16_t(first.t), int16_t(first.strip), 0, int16_t(first.h), 0, 1, int16_t(taps), 0};
      int high = first.h;
      for (int j = i; j < phase.first + phase.taps && group.count < how.most; ++j) {
        Place other = place(table.tap[j]);
        if (taken[j] || !together(first, other)) continue;
        taken[j] = true, members[taps++] = j, ++group.count;
        group.row = std::min<int16_t>(group.row, other.h), high = std::max(high, other.h);
        if (other.phase_w != first.phase_w) group.pieces = int16_t(s.step[1]);
      }
      group.phase = int16_t(first.phase_h * s.step[1] + (group.pieces > 1 ? 0 : first.phase_w));
      group.rows = int16_t(kStripRows + high - group.row);
      to.rows = std::max<int>(to.rows, group.rows), to.pieces = std::max<int>(to.pieces, group.pieces);
      to.most = std::max<int>(to.most, group.count);
      to.group[groups++] = group;
    }
    if (groups - to.first[p] > kStripGroups) return false;
  }
  to.first[table.phases] = groups;
  for (int g = 0; g < groups; ++g)
    for (int i = to.group[g].first; i < to.group[g].first + to.group[g].count; ++i) {
      const Tap& tap = table.tap[members[i]];
      Place at = place(tap);
      int piece = to.group[g].pieces > 1 ? at.phase_w : 0;
      to.tap[i] = {int16_t(piece * to.piece(s) + (at.h - to.group[g].row) * s.columns + at.w), int16_t(tap.index)};
    }
  return true;
}

// Writes the strips of up to two sources: x, addend and the strips in T. A block writes a chunk of a strip; grid:
// strips of all frames and one more, which writes the plane of zeros; chunks.
template <class T>
__global__ void __launch_bounds__(kThreads) hopper_strip_kernel(const __grid_constant__ Strips s) {
  bool zeros = int(blockIdx.x) == s.frames() * s.count;
  if (zeros && blockIdx.y) return;
  int chunk = blockIdx.y, index = chunk >= s.chunks[0], frame = blockIdx.x / s.count, strip = blockIdx.x % s.count;
  const Source& source = s.source[index];
  int group = zeros ? 0 : threadIdx.x % kStripPlanes,
      channel = (chunk - index * s.chunks[0]) * kStripChunk + group * kVector;
  int valid = zeros ? 0 : max(0, min(kVector, source.channels - channel));
  bool aligned = valid == kVector && vectors_aligned(source);
  ChannelParams params = load_params(source, channel);
  int64_t plane = int64_t(frame) * s.in_size[1] * s.in_size[2];
  const T* __restrict__ x = static_cast<const T*>(source.x);
  const T* __restrict__ addend = static_cast<const T*>(source.addend);
  T* __restrict__ to = static_cast<T*>(s.data) + s.at(frame, strip, chunk * kStripPlanes + group, 0) * kVector;
  int each = s.rows * s.columns, total = zeros ? each : each * s.phases();
#pragma unroll 2
  for (int i = threadIdx.x / kStripPlanes; i < total; i += kThreads / kStripPlanes) {
    int phase = i / each, row = i / s.columns - phase * s.rows, column = i % s.columns;
    int h = (row + s.low[0]) * s.step[0] + phase / s.step[1];
    int w = (strip * kStripColumns + column + s.low[1]) * s.step[1] + phase % s.step[1];
    bool inside = valid > 0 && unsigned(h) < unsigned(s.in_size[1]) && unsigned(w) < unsigned(s.in_size[2]);
    Vector<T> value = zero_vector<T>();
    if (inside) {
      int64_t at = (plane + int64_t(h) * s.in_size[2] + w) * source.channels + channel;
      Vector<T> more;
      if (addend) more = load_vector(addend + at, valid, aligned);
      value = activate<T>(load_vector(x + at, valid, aligned), more, params, addend);
    }
    store_vector(to + int64_t(i) * kVector, value, kVector, true);
  }
}

template <class T>
int write_strips(const Strips& s, void* stream) {
  dim3 grid(s.frames() * s.count + 1, s.chunks[0] + s.chunks[1]);
  FI_LAUNCH(hopper_strip_kernel<T>, grid, kThreads, 0, stream, s);
  return launched();
}

// Bytes that hopper_strip_kernel moves.
inline int64_t strip_bytes(const Strips& s) {
  int64_t bytes = s.bytes(), pixels = int64_t(s.frames()) * s.in_size[1] * s.in_size[2];
  for (const Source& source : s.source)
    if (s.chunks[&source - s.source]) bytes += pixels * source.channels * 2 * (source.addend ? 2 : 1);
  return bytes;
}

}  // namespace fi
