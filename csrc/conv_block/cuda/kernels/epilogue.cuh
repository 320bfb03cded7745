// The epilogues. Forward: bias, store and statistics. dgrad: backward of the source's activation, its two stores and
// its two channel sums.
#pragma once
#include "conv_block/cuda/kernels/params.cuh"

namespace fi {

constexpr int epilogue_bytes(int columns) { return staging_bytes(columns) + fold_bytes(); }

// The part of a segment that this block computes.
struct SegmentTile {
  const Segment* segment;
  int channel;  // first
};

template <int BN>
__device__ __forceinline__ SegmentTile find_segment(const GatherParams& p) {
  int index = p.segments > 1 && int(blockIdx.y) >= p.segment[1].first_tile;
  const Segment& segment = p.segment[index];
  return {&segment, (int(blockIdx.y) - segment.first_tile) * BN};
}

// The output position of a tile's row, or -1 outside.
__device__ __forceinline__ int64_t output_position(const GatherParams& p, const Tile& tile, int row) {
  int h = row >> p.tile_bits, w = row & ((1 << p.tile_bits) - 1);
  if (h >= tile.rows || w >= tile.columns) return -1;
  const Phase& phase = p.taps.phase[tile.phase];
  int t = tile.t * p.taps.out_step[0] + phase.origin[0];
  h = (tile.h + h) * p.taps.out_step[1] + phase.origin[1];
  w = (tile.w + w) * p.taps.out_step[2] + phase.origin[2];
  return ((int64_t(tile.n) * p.out_size[0] + t) * p.out_size[1] + h) * p.out_size[2] + w;
}

// Loads the bias of eight channels into `shift`; zeros without one.
template <class T>
__device__ ChannelParams load_bias(const Segment& segment, int channel, int valid) {
  if (!segment.bias) valid = 0;
  Vector<T> bias =
      load_vector(static_cast<const T*>(segment.bias) + channel, valid, valid == kVector && is_aligned(segment.bias));
  ChannelParams result;
#pragma unroll
  for (int i = 0; i < kVector; ++i) result.shift[i] = to_float(bias.v[i]);
  return result;
}

// y = acc + bias, and the moments of y as stored.
template <class T>
__device__ void store_forward(const Segment& segment, int64_t at, int valid, float (&value)[kVector],
                              const ChannelParams& bias, Fold& fold, float& count) {
  bool aligned = segment.channels % kVector == 0 && is_aligned(segment.y);
#pragma unroll
  for (int i = 0; i < kVector; ++i) value[i] += bias.shift[i];
  Vector<T> y = rounded<T>(value);
  store_vector(static_cast<T*>(segment.y) + at, y, valid, aligned);
  count += 1;
  widen(y, value);
  fold.add_moments(value, count);
}

// dz = da * 1[z > 0], dx = dz * scale, daddend = da, and the sums of dz and dz * (x - mean).
template <class T>
__device__ void store_backward(const Segment& segment, int64_t at, int valid, bool aligned, const Vector<T>& x,
                               const float (&da)[kVector], const ChannelParams& params, Fold& fold) {
  const Source& source = segment.source;
  float wide[kVector], dx[kVector];
  widen(x, wide);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    float centred = wide[i] - params.mean[i];
    float z = centred * params.scale[i] + params.shift[i];
    float dz = source.relu && z <= 0.0f ? 0.0f : da[i];
    fold.first[i] += dz;
    fold.second[i] += dz * centred;
    dx[i] = dz * params.scale[i];
  }
  store_vector(static_cast<T*>(segment.out.dx) + at, rounded<T>(dx), valid, aligned);
  if (segment.out.daddend) store_vector(static_cast<T*>(segment.out.daddend) + at, rounded<T>(da), valid, aligned);
}

// A thread's eight channels of a segment: their parameters or bias, and what it sums over its positions.
template <class T>
struct OutputLane {
  const Segment& segment;
  int first, channel, valid;  // of the block; of the thread; how many exist
  bool aligned;               // dgrad's maps
  ChannelParams params;
  Fold fold;
  float count = 0;

  __device__ __forceinline__ OutputLane(const GatherParams& p, const SegmentTile& place, int vector)
      : segment(*place.segment), first(place.channel), channel(place.channel + vector * kVector) {
    valid = max(0, min(kVector, segment.channels - channel));
    params = p.backward ? load_params(segment.source, channel) : load_bias<T>(segment, channel, valid);
    const SourceGradient& out = segment.out;
    aligned = p.backward && vectors_aligned(segment.source) && is_aligned(out.dx) && is_aligned(out.daddend);
  }
};

// Stores a thread's positions row_of(0) ... row_of(kRows - 1) of a tile. sum_of(i, value) gives the i-th one's sums.
template <class T, int kRows, class Row, class SumOf>
__device__ __forceinline__ void store_rows(const GatherParams& p, const Tile& tile, OutputLane<T>& lane, Row row_of,
                                           SumOf sum_of) {
  int64_t at[kRows];
  Vector<T> x[kRows];  // dgrad's loads, all issued before the first is used
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    int64_t position = output_position(p, tile, row_of(i));
    at[i] = position < 0 || lane.valid == 0 ? -1 : position * lane.segment.channels + lane.channel;
    if (p.backward && at[i] >= 0)
      x[i] = load_vector(static_cast<const T*>(lane.segment.source.x) + at[i], lane.valid, lane.aligned);
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (at[i] < 0) continue;
    float value[kVector];
    sum_of(i, value);
    if (p.backward)
      store_backward<T>(lane.segment, at[i], lane.valid, lane.aligned, x[i], value, lane.params, lane.fold);
    else
      store_forward<T>(lane.segment, at[i], lane.valid, value, lane.params, lane.fold, lane.count);
  }
}

// The tile's partial sums or moments of the team's channels. index: of the tile.
template <class T, class Team>
__device__ __forceinline__ void fold_lanes(const GatherParams& p, SharedArena arena, const OutputLane<T>& lane,
                                           int vectors, int index, Team team) {
  if (p.backward)
    fold_block<false>(arena, lane.fold, 0, vectors, lane.first, index, lane.segment.partials, team);
  else
    fold_block<true>(arena, lane.fold, lane.count, vectors, lane.first, index, lane.segment.partials, team);
}

// The epilogue of one tile by one team. stage(float* staged) writes the accumulators in rows of pitch<float>(BN).
//   place: the output channels     index: of the tile, for its partials     memory: of the team
template <class T, int BN, class Team, class Stage>
__device__ void epilogue(const GatherParams& p, const Tile& tile, const SegmentTile& place, int index, char* memory,
                         int total_bytes, Team team, Stage stage) {
  team.sync();  // the main loop, or the previous tile's epilogue, has finished reading this memory
  SharedArena arena(memory, total_bytes);
  float* staged = arena.take<float>(kTileRows * pitch<float>(BN));
  stage(staged);
  team.sync();
  constexpr int kGroups = BN / kVector;
  int group = team.thread() % kGroups;
  OutputLane<T> lane(p, place, group);
  constexpr int kStep = kThreads / kGroups, kAhead = kTileRows / kStep < 4 ? kTileRows / kStep : 4;
  for (int first = team.thread() / kGroups; first < kTileRows; first += kAhead * kStep) {
    auto row_of = [&](int i) { return first + i * kStep; };
    store_rows<T, kAhead>(p, tile, lane, row_of, [&](int i, float (&value)[kVector]) {
#pragma unroll
      for (int j = 0; j < kVector; j += 2) {
        float2 v = *reinterpret_cast<const float2*>(staged + row_of(i) * pitch<float>(BN) + group * kVector + j);
        value[j] = v.x, value[j + 1] = v.y;
      }
    });
  }
  if (place.segment->partials.value) fold_lanes(p, arena, lane, kGroups, index, team);
}

}  // namespace fi
