// wgrad of a depthwise convolution: dw[tap][c] = sum over positions j of P[j * step + tap][c] * Q[j][c]. P and Q are as
// in kernels/wgrad.cuh; a thread multiplies eight channels on CUDA cores.
//
//   grid     x: 32 channels and block of taps (of one plane)    y: split of the tiles
//   tile     128 positions. Its patch of P and its Q are activated on their way into shared memory, once for all taps.
//   thread   eight channels and one entry: up to seven taps of a kernel row. The threads of a channel divide into
//            entries, and those of an entry into slots, which take turns with the positions.
//   partial  [split][tap][c] float32, all written; reduce_groups_kernel sums the splits in order.
#pragma once
#include "conv_block/cuda/kernels/gather.cuh"
#include "conv_block/cuda/kernels/wgrad.cuh"

namespace fi {

constexpr int kVectors = kChunk / kVector, kLanes = kThreads / kVectors;  // of a block: per position; threads of each
constexpr int kEntryTaps = 7;                                             // 56 sums per thread

// How a block's taps divide into entries. Its taps are whole kernel rows or a part of one.
struct Entries {
  int row_taps, pieces, count;  // taps of a row; entries of a row; entries

  __host__ __device__ Entries(const TapBlock& block, int kernel_w)
      : row_taps(block.count < kernel_w ? block.count : kernel_w), pieces(ceil_div(row_taps, kEntryTaps)) {
    count = block.count / row_taps * pieces;
  }
  // The first tap of an entry, within the block, and how many it has.
  __host__ __device__ int first(int entry) const { return entry / pieces * row_taps + entry % pieces * kEntryTaps; }
  __host__ __device__ int taps(int entry) const {
    int left = row_taps - entry % pieces * kEntryTaps;
    return left < kEntryTaps ? left : kEntryTaps;
  }
};

template <class T>
int depthwise_wgrad_bytes(const WgradParams& w) {
  int patch = w.p.patch.rows * w.p.patch.columns * pitch<T>(kChunk) * int(sizeof(T));
  return shared_part(patch) + shared_part(kTileRows * pitch<T>(kChunk) * int(sizeof(T))) +
         shared_part(kLanes * kChunk * int(sizeof(float))) + 2 * shared_part(kVectors * int(sizeof(ChannelParams)));
}

// Loads and activates a whole box.
template <class T>
__device__ void load_box(const BoxLoader<T, kVectors>& loader, const Source& source, const ChannelParams* params,
                         T* to) {
  Slice<T> loading;
  loading.set_params(source, params[threadIdx.x % kVectors]);
  for (int slice = 0; slice < loader.slices(); ++slice) {
    loader.load(slice, loading);
    loader.store(slice, loading, to);
  }
}

// Sums tap k of every entry over its slots and stores the split's partial. sums: [lane][channel]
__device__ inline void store_tap(const WgradParams& w, const TapBlock& block, const Entries& entries, int slots, int k,
                                 int channel, const float* sums) {
  for (int i = threadIdx.x; i < entries.count * kChunk; i += kThreads) {
    int entry = i / kChunk, c = i % kChunk;
    if (k >= entries.taps(entry) || channel + c >= w.p_channels) continue;
    float sum = 0;
    for (int slot = 0; slot < slots; ++slot) sum += sums[(entry * slots + slot) * kChunk + c];
    int tap = w.p.taps.tap[block.first + entries.first(entry) + k].index;
    w.partial[(int64_t(blockIdx.y) * w.p.taps.taps + tap) * w.p_channels + channel + c] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 3 : 2)  // float32 loads twice the registers
    depthwise_wgrad_kernel(const __grid_constant__ WgradParams w, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  const GatherParams& p = w.p;
  T* patch = arena.take<T>(p.patch.rows * p.patch.columns * pitch<T>(kChunk));
  T* q = arena.take<T>(kTileRows * pitch<T>(kChunk));
  float* sums = arena.take<float>(kLanes * kChunk);
  ChannelParams* p_params = arena.take<ChannelParams>(kVectors);
  ChannelParams* q_params = arena.take<ChannelParams>(kVectors);

  const TapBlock& block = w.block[blockIdx.x % w.blocks];
  int channel = blockIdx.x / w.blocks * kChunk, vector = threadIdx.x % kVectors, lane = threadIdx.x / kVectors;
  BoxLoader<T, kVectors> p_loader(p.patch, p.in_size), q_loader(w.q_box, p.out_size);
  p_loader.set_channels(p.source[0], channel);
  q_loader.set_channels(w.q[0], channel);
  if (lane == 0) p_params[vector] = load_params(p.source[0], channel + vector * kVector);
  if (lane == 1) q_params[vector] = load_params(w.q[0], channel + vector * kVector);

  Entries entries(block, p.kernel_w);
  int slots = kLanes / entries.count, entry = lane / slots, taps = 0, row = 0, step = 0;
  if (entry < entries.count) {
    const Tap *first = p.taps.tap + block.first + entries.first(entry), *next = first;
    taps = entries.taps(entry);
    if (taps > 1) ++next;
    row = ((first->h - block.h) * p.patch.columns + first->w - block.w) * pitch<T>(kChunk) + vector * kVector;
    step = (next->w - first->w) * pitch<T>(kChunk);
  }
  float sum[kEntryTaps][kVector] = {};
  int end = min(w.tiles, (int(blockIdx.y) + 1) * w.tiles_each);
  for (int index = blockIdx.y * w.tiles_each; index < end; ++index) {
    Tile tile = nth_tile(p, index);
    int t = tile.t * p.taps.step[0] + block.t;
    if (t < 0 || t >= p.in_size[0]) continue;
    p_loader.set_origin(p.source[0], int64_t(tile.n) * p.in_size[0] + t, tile.h * p.taps.step[1] + block.h,
                        tile.w * p.taps.step[2] + block.w);
    q_loader.set_origin(w.q[0], int64_t(tile.n) * p.out_size[0] + tile.t, tile.h, tile.w);
    __syncthreads();  // the parameters are there, and the previous tile has been read
    load_box(p_loader, p.source[0], p_params, patch);
    load_box(q_loader, w.q[0], q_params, q);
    __syncthreads();  // the tile is complete
    for (int i = lane % slots; taps > 0 && i < kTileRows; i += slots) {
      int m = i % (kTileRows / 4) * 4 + i / (kTileRows / 4);  // neighbours read different banks
      const T* from = patch + row + box_position(p.patch, p.tile_bits, m) * pitch<T>(kChunk);
      float g[kVector], a[kVector];
      widen(load_vector(q + m * pitch<T>(kChunk) + vector * kVector, kVector, true), g);
#pragma unroll
      for (int k = 0; k < kEntryTaps; ++k, from += step) {
        if (k >= taps) break;
        widen(load_vector(from, kVector, true), a);
#pragma unroll
        for (int c = 0; c < kVector; ++c) sum[k][c] = fmaf(a[c], g[c], sum[k][c]);
      }
    }
  }
#pragma unroll 1
  for (int k = 0; k < min(entries.row_taps, kEntryTaps); ++k) {
    __syncthreads();  // the previous tap's sums have been read
#pragma unroll
    for (int i = 0; i < kEntryTaps; ++i)
      if (i == k) store_vector(sums + lane * kChunk + vector * kVector, rounded<float>(sum[i]), kVector, true);
    __syncthreads();
    store_tap(w, block, entries, slots, k, channel, sums);
  }
}

}  // namespace fi
