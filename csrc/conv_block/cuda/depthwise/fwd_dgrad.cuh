// Forward and dgrad of a depthwise convolution: out[position][c] = sum over taps of a[position * step + tap][c] *
// w[c][tap]. A value costs one multiply-add per tap, so memory bounds it, and tensor cores would multiply zeros.
//
//   grid     as in kernels/gather.cuh, with 32 channels per block, which takes `tiles_each` tiles one after another
//   patch    of one group of taps, activated on its way into shared memory as there. There is one; other blocks of the
//            multiprocessor work while this one loads.
//   thread   eight channels of four adjacent positions. Taps adjacent along W form a run: a thread reads each vector of
//            the patch once for a run and four positions.
//   dtypes   maps, weight: T; sums, weights in shared memory: float32
#pragma once
#include "conv_block/cuda/kernels/gather.cuh"
#include "conv_block/cuda/kernels/pack.cuh"

namespace fi {

constexpr int kAdjacent = kTileRows / (kThreads / (kChunk / kVector));  // positions of a thread
static_assert(kAdjacent == 4, "a row of a tile has at least four positions");

// Shared memory besides the patch.
inline int depthwise_rest_bytes(int taps) {
  return shared_part(taps * kChunk * int(sizeof(float))) + 2 * shared_part(kMaxTaps * int(sizeof(int2))) +
         shared_part(kThreads / 32 * int(sizeof(int))) + shared_part(kChunk / kVector * int(sizeof(ChannelParams)));
}

template <class T>
int depthwise_bytes(const GatherParams& p) {
  int patch = shared_part(patch_elements<T>(p.patch) * int(sizeof(T)));
  return std::max(patch + depthwise_rest_bytes(p.taps.taps), fold_bytes());
}

// Fills to[tap][channel] with the block's weights, zero beyond the last channel.
template <class T>
__device__ void load_weights(const GatherParams& p, const PackParams& layout, const T* weight, int channel, float* to) {
  int c = threadIdx.x % kChunk;
  bool exists = channel + c < p.segment[0].channels;
  weight += (channel + c) * (layout.k_in_group ? layout.n.stride : layout.k.stride);
  for (int i = threadIdx.x / kChunk; i < p.taps.taps; i += kThreads / kChunk) {
    int tap = p.taps.tap[i].index, line = tap / layout.kernel[2], t = line / layout.kernel[1];
    int64_t at = t * layout.tap_stride[0] + (line - t * layout.kernel[1]) * layout.tap_stride[1] +
                 (tap - line * layout.kernel[2]) * layout.tap_stride[2];
    to[i * kChunk + c] = exists ? to_float(weight[at]) : 0.0f;
  }
}

// sum[i] += a[i + k] w[k] over the taps of a run, at eight channels.
//   a: the patch at the thread's first position and the first tap; adjacent positions are `step` elements apart
//   w: the weights of the first tap
template <class T>
__device__ __forceinline__ void add_run(float (&sum)[kAdjacent][kVector], const T* a, int step, const float* w,
                                        int taps) {
  float window[kAdjacent][kVector];  // a[i + k], at (i + k) % kAdjacent
#pragma unroll
  for (int i = 0; i < kAdjacent - 1; ++i) widen(load_vector(a + i * step, kVector, true), window[i]);
  a += (kAdjacent - 1) * step;
  for (int first = 0; first < taps; first += kAdjacent) {
#pragma unroll
    for (int k = 0; k < kAdjacent; ++k, a += step, w += kChunk) {
      if (first + k >= taps) break;
      widen(load_vector(a, kVector, true), window[(k + kAdjacent - 1) % kAdjacent]);
      Vector<float> factor = load_vector(w, kVector, true);
#pragma unroll
      for (int i = 0; i < kAdjacent; ++i)
#pragma unroll
        for (int c = 0; c < kVector; ++c) sum[i][c] = fmaf(window[(i + k) % kAdjacent][c], factor.v[c], sum[i][c]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 3 : 2)  // float32 loads twice the registers
    depthwise_kernel(const __grid_constant__ GatherParams p, const __grid_constant__ PackParams layout, const T* weight,
                     int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  T* patch = arena.take<T>(patch_elements<T>(p.patch));
  float* weights = arena.take<float>(p.taps.taps * kChunk);
  int2* live = arena.take<int2>(kMaxTaps);
  int2* starts = arena.take<int2>(kMaxTaps);
  int* counts = arena.take<int>(kThreads / 32);
  ChannelParams* params = arena.take<ChannelParams>(kChunk / kVector);

  SegmentTile place = find_segment<kChunk>(p);
  load_weights(p, layout, weight, place.channel, weights);

  int vector = threadIdx.x % (kChunk / kVector), first_row = threadIdx.x / (kChunk / kVector) * kAdjacent;
  int step = p.patch.tile_w * pitch<T>(kChunk);
  const T* mine = patch + box_position(p.patch, p.tile_bits, first_row) * pitch<T>(kChunk) + vector * kVector;
  const Source& source = p.source[0];
  BoxLoader<T, kChunk / kVector> loader(p.patch, p.in_size);
  loader.set_channels(source, place.channel);
  if (threadIdx.x < kChunk / kVector) params[vector] = load_params(source, loader.channel);
  Fold fold;
  float count = 0;
  int end_tile = min(p.all_tiles, (int(blockIdx.x) + 1) * p.tiles_each);
  for (int index = blockIdx.x * p.tiles_each; index < end_tile; ++index) {
    Tile tile = find_tile(p, index);
    int taps, runs;
    list_taps<true>(p, tile, live, starts, counts, taps, runs);
    float sum[kAdjacent][kVector] = {};
    for (int run = 0, group = -1; run < runs; ++run) {
      int first = starts[run].x, end = run + 1 < runs ? starts[run + 1].x : taps;
      if (starts[run].y != group) {
        Slice<T> loading;
        group = starts[run].y;
        PatchOrigin origin = p.origin[group];
        int t = tile.t * p.taps.step[0] + origin.t;
        loader.set_origin(source, int64_t(tile.n) * p.in_size[0] + t, tile.h * p.taps.step[1] + origin.h,
                          tile.w * p.taps.step[2] + origin.w);
        __syncthreads();  // the previous patch has been read, and the parameters are there
        loading.set_params(source, params[vector]);
        for (int slice = 0; slice < loader.slices(); ++slice) {
          loader.load(slice, loading);
          loader.store(slice, loading, patch);
        }
        __syncthreads();  // the patch and the weights are complete
      }
      int2 tap = live[first];
      add_run(sum, mine + tap.x * pitch<T>(kChunk), step, weights + tap.y * kChunk + vector * kVector, end - first);
    }
    OutputLane<T> lane(p, place, vector);
    lane.fold = fold, lane.count = count;
    auto row_of = [&](int i) { return first_row + i; };
    store_rows<T, kAdjacent>(p, tile, lane, row_of, [&](int i, float (&value)[kVector]) {
#pragma unroll
      for (int c = 0; c < kVector; ++c) value[c] = sum[i][c];
    });
    fold = lane.fold, count = lane.count;
  }
  if (!place.segment->partials.value) return;
  __syncthreads();  // the loop has finished reading this memory
  OutputLane<T> lane(p, place, vector);
  lane.fold = fold, lane.count = count;
  fold_lanes(p, SharedArena(memory, shared_bytes), lane, kChunk / kVector, blockIdx.x, WholeBlock());
}

}  // namespace fi
