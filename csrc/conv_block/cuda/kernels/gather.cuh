// The convolution as a gather: out[position][n] = sum over taps and k of a[position * step + tap][k] * w[tap][k][n].
// Forward and dgrad of every convolution have this form (plan/taps.cuh). a is the activation of up to two sources,
// computed from their raw maps on the way into shared memory, zero outside.
//
//   grid    x: phase, n, t and tile of 128 positions (a spatial block)    y: BN output channels
//   step    one tap x 32 channels. Weights come by cp.async through a ring of three. The taps of a group share a patch,
//           which is loaded through registers (and activated there) in slices, one per step, while the tensor cores
//           work on the previous patch. One barrier per step.
//   taps    dead ones (that read only padding for this tile) are not in the block's list.
//   dtypes  x, weight, y: Map<T>; accumulators and parameters: float32. All partials are written; nothing needs
//   zeroing.
#pragma once
#include "conv_block/cuda/kernels/epilogue.cuh"

namespace fi {

constexpr int kRing = 3;  // stages of weights

template <class T>
constexpr int patch_elements(const PatchShape& patch) {
  return patch.rows * patch.columns * pitch<T>(kChunk);
}

// Shared memory of the main loop besides its two patches: weights and lists.
template <class T>
constexpr int gather_rest_bytes(int columns) {
  return shared_part(kRing * kChunk * b_pitch<T>(columns) * int(sizeof(T))) +
         2 * shared_part(kMaxTaps * int(sizeof(int2))) + shared_part(kThreads / 32 * int(sizeof(int)));
}

template <class T, int BN>
int gather_bytes(const PatchShape& patch) {
  int loop = 2 * shared_part(patch_elements<T>(patch) * int(sizeof(T))) + gather_rest_bytes<T>(BN);
  return std::max(loop, epilogue_bytes(BN));
}

// The patch of one group of taps and one chunk of channels, for the loader. new_chunk: the previous chunk was another.
// result: the block's first channel in its segment.
template <class T, int groups>
__device__ void begin_patch(const GatherParams& p, const Tile& tile, BoxLoader<T, groups>& loader, Slice<T>& loading,
                            int chunk, bool new_chunk, int group, int result) {
  int index = chunk >= p.chunks[0];
  const Source& source = p.source[index];
  if (new_chunk) {
    int first = p.group.n ? p.group.first(result) : 0;
    loader.set_channels(source, first + (chunk - (index ? p.chunks[0] : 0)) * groups * kVector);
    loading.set_params(source, load_params(source, loader.channel));
  }
  PatchOrigin origin = p.origin[group];
  int t = tile.t * p.taps.step[0] + origin.t;
  loader.set_origin(source, int64_t(tile.n) * p.in_size[0] + t, tile.h * p.taps.step[1] + origin.h,
                    tile.w * p.taps.step[2] + origin.w);
}

constexpr int kCopiesAhead = 4;

// Starts the copy of the 32 x BN weights at `row` of the packed matrix.
template <class T, int BN>
__device__ __forceinline__ void fetch_weights(const GatherParams& p, int row, int first_column, T* stage) {
  constexpr int kEach = 16 / int(sizeof(T)), kInRow = BN / kEach, kRows = kThreads / kInRow;  // per round
  static_assert(kThreads % kInRow == 0, "a thread copies one column of pieces");
  int k = threadIdx.x / kInRow, n = threadIdx.x % kInRow * kEach;
  bool exists = first_column + n < p.n_padded;
  const T* from = static_cast<const T*>(p.weight) + (exists ? size_t(row + k) * p.n_padded + first_column + n : 0);
  size_t further = exists ? size_t(kRows) * p.n_padded : 0;
  T* to = stage + k * b_pitch<T>(BN) + n;
#pragma unroll kCopiesAhead
  for (int first = 0; first < kChunk; first += kRows, from += further, to += kRows * b_pitch<T>(BN))
    if (kRows <= kChunk || k < kChunk) cp_async16(to, from, exists);
}

// Fills `live` with (patch offset in positions, tap) of the tile's live taps, and `starts` with (first index, group) of
// each group, or of each run: taps of a group that are adjacent along W as the tile's positions are.
template <bool runs = false>
__device__ inline void list_taps(const GatherParams& p, const Tile& tile, int2* live, int2* starts, int* counts,
                                 int& taps, int& groups) {
  const Phase& phase = p.taps.phase[tile.phase];
  int i = threadIdx.x;
  bool keep = false;
  int2 entry = {0, 0};
  if (i < phase.taps) {
    const Tap& tap = p.taps.tap[phase.first + i];
    const PatchOrigin& origin = p.origin[tap.group];
    keep = is_live(p, tile, tap);
    entry = {(tap.h - origin.h) * p.patch.columns + tap.w - origin.w, phase.first + i};
  }
  taps = compact(keep, entry, live, counts);
  auto group_of = [&](int l) { return int(p.taps.tap[live[l].y].group); };
  bool first = i < taps && (i == 0 || group_of(i) != group_of(i - 1));
  if (runs && i > 0 && i < taps) first |= p.patch.tile_w != 1 || live[i].x != live[i - 1].x + 1;
  groups = compact(first, int2{i, first ? group_of(i) : 0}, starts, counts);
}

template <class T, int BN>
__global__ void __launch_bounds__(kThreads, 2) gather_kernel(const __grid_constant__ GatherParams p, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  int elements = patch_elements<T>(p.patch);
  T* first_patch = arena.take<T>(elements);
  T* second_patch = arena.take<T>(elements);
  T* ring = arena.take<T>(kRing * kChunk * b_pitch<T>(BN));
  int2* live = arena.take<int2>(kMaxTaps);
  int2* starts = arena.take<int2>(kMaxTaps);
  int* counts = arena.take<int>(kThreads / 32);

  Tile tile = find_tile(p);
  int taps, groups;
  list_taps(p, tile, live, starts, counts, taps, groups);
  SegmentTile place = find_segment<BN>(p);
  int first_column = place.segment->first_column + place.channel;
  int chunks = p.chunks[0] + p.chunks[1];

  int weight_tap = 0, weight_chunk = 0, weight_stage = 0;  // of the next fetch
  auto fetch_next = [&] {
    if (weight_chunk < chunks && taps > 0) {
      int tap = p.taps.tap[live[weight_tap].y].index;
      fetch_weights<T, BN>(p, tap * p.k_padded + weight_chunk * kChunk, first_column,
                           ring + weight_stage * kChunk * b_pitch<T>(BN));
      if (++weight_tap == taps) weight_tap = 0, ++weight_chunk;
      if (++weight_stage == kRing) weight_stage = 0;
    }
    cp_async_commit();
  };
  LaneRows<T, BN> rows;
  rows.fill([&](int m) { return box_position(p.patch, p.tile_bits, m) * pitch<T>(kChunk); });

  Accumulators<BN> acc = {};
  BoxLoader<T, kChunk / kVector> loader(p.patch, p.in_size);
  Slice<T> loading;
  fetch_next();
  fetch_next();
  int stage = 0, first = 0, end = 0;  // the live taps of the patch that is there: none yet
  for (int chunk = taps > 0 ? 0 : chunks, group = 0, odd = 1;; odd = !odd) {
    bool more = chunk < chunks;
    if (more) begin_patch(p, tile, loader, loading, chunk, group == 0, starts[group].y, place.channel);
    T* current = odd ? second_patch : first_patch;
    T* next = odd ? first_patch : second_patch;
    int slice = 0;
    for (int l = first; l < end; ++l) {
      cp_async_wait<1>();
      __syncthreads();  // this step's weights and patch are complete; the previous step's are free
      fetch_next();
      bool loads = more && slice < loader.slices();
      if (loads) loader.load(slice, loading);
      int offset = live[l].x * pitch<T>(kChunk);
      multiply_tile<T, BN>(acc, current + offset, ring + stage * kChunk * b_pitch<T>(BN), rows,
                           [](int k8) { return k8 * 8; });
      if (++stage == kRing) stage = 0;
      if (loads) loader.store(slice++, loading, next);
    }
    for (; more && slice < loader.slices(); ++slice) {
      loader.load(slice, loading);
      loader.store(slice, loading, next);
    }
    if (!more) break;
    first = starts[group].x, end = group + 1 < groups ? starts[group + 1].x : taps;
    if (++group == groups) group = 0, ++chunk;
  }
  cp_async_wait<0>();
  epilogue<Map<T>, BN>(p, tile, find_segment<BN>(p), blockIdx.x, memory, shared_bytes, WholeBlock(),
                       [&](float* staged) { stage_accumulators<BN>(acc, staged); });
}

}  // namespace fi
