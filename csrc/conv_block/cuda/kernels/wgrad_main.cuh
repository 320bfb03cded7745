// The wgrad kernels. kernels/wgrad.cuh has their parts and explains them.
#pragma once
#include "conv_block/cuda/kernels/wgrad.cuh"

namespace fi {

// Fills slots with the element offset of each slot's eight columns within a patch position. Unused slots read the first
// one's; their results are not stored.
template <class T, bool thin>
__device__ inline void fill_slots(const GatherParams& p, const TapBlock& block, int* slots) {
  int slot = threadIdx.x;
  if (slot >= kMostSlots) return;
  int index = thin ? slot : slot / 4;
  slots[slot] = 0;
  if (index >= block.count) return;
  int along_w = ceil_div(p.kernel_w, 2), entry = block.first + index;
  const Tap& tap = p.taps.tap[thin ? entry / along_w * p.kernel_w + entry % along_w * 2 : entry];
  int position = (tap.h - block.h) * p.patch.columns + tap.w - block.w;
  slots[slot] = position * patch_pitch<T, thin>() + (thin ? 0 : slot % 4 * kVector);
}

// Fills `params` with the parameters of P's vectors of channels, then of Q's. P's and Q's slices alternate and share
// the registers, so each takes its parameters from here.
template <int BN>
__device__ inline void fill_params(const Part& rows, const Part& columns, ChannelParams* params) {
  int i = threadIdx.x;
  if (i >= kWgradVectors<BN>) return;
  const Part& part = i < kVectorsOfP ? rows : columns;
  params[i] = load_params(*part.source, part.channel + (i < kVectorsOfP ? i : i - kVectorsOfP) * kVector);
}

// Loads a thin P's whole patch of one tile between two tiles (it is small).
template <class T>
__device__ void load_thin_patch(const GatherParams& p, const ChannelParams& params, const Tile& tile,
                                const TapBlock& block, T* patch) {
  int t = tile.t * p.taps.step[0] + block.t;
  int64_t plane = int64_t(tile.n) * p.in_size[0] + t;
  for (int i = threadIdx.x; i < 2 * p.patch.rows * p.patch.columns; i += kThreads) {  // half a position each
    int h = tile.h * p.taps.step[1] + block.h + i / 2 / p.patch.columns * p.patch.step_h;
    int w = tile.w * p.taps.step[2] + block.w + i / 2 % p.patch.columns * p.patch.step_w + i % 2 * p.pair_step;
    activate_four(p, params, plane, h, w, patch + i * kThinChannels);
  }
}

template <class T, int BN, bool thin>
__global__ void __launch_bounds__(kMostGroups* kThreads, 1)
    wgrad_kernel(const __grid_constant__ WgradParams w, int group_bytes) {
  FI_DYNAMIC_SHARED(memory);
  int thread_group = __shfl_sync(~0u, threadIdx.y, 0);  // tells the compiler that it is uniform in the warp
  SharedArena arena(memory + thread_group * group_bytes, group_bytes);
  const GatherParams& p = w.p;
  int elements = p.patch.rows * p.patch.columns * patch_pitch<T, thin>();
  T* first_patch = arena.take<T>(elements);
  T* second_patch = arena.take<T>(elements);
  T* first_q = arena.take<T>(kTileRows * b_pitch<T>(BN));
  T* second_q = arena.take<T>(kTileRows * b_pitch<T>(BN));
  int* slots = arena.take<int>(kMostSlots);
  ChannelParams* params = arena.take<ChannelParams>(kWgradVectors<BN>);

  int columns_index = blockIdx.x % (w.q_tiles[0] + w.q_tiles[1]),
      rows_index = blockIdx.x / (w.q_tiles[0] + w.q_tiles[1]);
  const TapBlock& block = w.block[rows_index % w.blocks];
  Part rows = find_part(p.source, p.chunks[0], rows_index / w.blocks, kChunk);
  Part columns = find_part(w.q, w.q_tiles[0], columns_index, BN);
  Part read = columns;  // with groups, partials count Q's channels from the first that meets this chunk of P
  if (p.group.n) read.channel += p.group.first(rows.channel);
  fill_slots<T, thin>(p, block, slots);
  fill_params<BN>(rows, read, params);
  // The loop's first barrier covers the parameters and slots too. Without this one the compiler takes more instructions
  // a step on sm_90a: bounds of 0.43 fall to 0.39.
  sync_group(thread_group, kThreads);  // the parameters are there

  BoxLoader<T, kChunk / kVector, b_pitch<T>(kChunk)> p_loader(p.patch, p.in_size);
  BoxLoader<T, BN / kVector, b_pitch<T>(BN)> q_loader(w.q_box, p.out_size);
  p_loader.set_channels(*rows.source, rows.channel);
  q_loader.set_channels(*read.source, read.channel);
  auto begin = [&](const Tile& tile) {
    int t = tile.t * p.taps.step[0] + block.t;
    p_loader.set_origin(*rows.source, int64_t(tile.n) * p.in_size[0] + t, tile.h * p.taps.step[1] + block.h,
                        tile.w * p.taps.step[2] + block.w);
    q_loader.set_origin(*columns.source, int64_t(tile.n) * p.out_size[0] + tile.t, tile.h, tile.w);
  };
  int p_slices = thin ? 0 : p_loader.slices(), slices = p_slices + q_loader.slices();
  Slice<T> loading;
  auto load = [&](int slice) {
    if (!thin && slice == 0) loading.set_params(*rows.source, params[threadIdx.x % kVectorsOfP]);
    if (slice == p_slices) loading.set_params(*columns.source, params[kVectorsOfP + threadIdx.x % (BN / kVector)]);
    slice < p_slices ? p_loader.load(slice, loading) : q_loader.load(slice - p_slices, loading);
  };
  auto store = [&](int slice, T* patch, T* q) {
    slice < p_slices ? p_loader.store(slice, loading, patch) : q_loader.store(slice - p_slices, loading, q);
  };
  auto load_thin = [&](const Tile& tile, T* patch) {  // every thread has all channels
    if (thin) load_thin_patch<T>(p, params[0], tile, block, patch);
  };
  auto row_of = [&](int k) { return box_position(p.patch, p.tile_bits, k) * patch_pitch<T, thin>(); };

  int split = blockIdx.y * blockDim.y + thread_group, end = min(w.tiles, (split + 1) * w.tiles_each);
  Tile tile;
  unsigned live = 0, next_live = 0;
  auto find_live = [&](int from) {  // the next tile with live taps, or `end`
    for (next_live = 0; from < end; ++from) {
      tile = nth_tile(p, from);
      if ((next_live = live_taps<thin>(p, tile, block))) break;
    }
    return from;
  };
  constexpr int kM = block_taps<T, thin>();
  WgradSums<kM, BN> acc = {};
  bool loaded = false;  // a tile: the first round only loads one
  for (int next = split * w.tiles_each, odd = 1;; odd = !odd, ++next) {
    T *patch_at = odd ? second_patch : first_patch, *next_patch = odd ? first_patch : second_patch;
    T *q_at = odd ? second_q : first_q, *next_q = odd ? first_q : second_q;
    live = next_live;
    next = find_live(next);
    bool more = next < end;
    if (more) begin(tile);
    sync_group(thread_group, kThreads);  // this tile is complete; the previous one's memory is free
    if (more) load_thin(tile, next_patch);
    constexpr int kStep = std::is_same<T, float>::value ? 32 : 16;
    for (int k = loaded ? 0 : kTileRows, slice = 0; k < kTileRows || (more && slice < slices); k += kStep, ++slice) {
      bool loads = more && slice < slices;
      if (loads) load(slice);
      if (k < kTileRows) multiply_positions<T, kM, BN>(acc, patch_at, q_at, slots, live, k, row_of);
      if (loads) store(slice, next_patch, next_q);
    }
    if (!more) break;
    loaded = true;
  }
  if (blockDim.y > 1) {
    __syncthreads();  // the loops have finished reading this memory
    float4* sums = SharedArena(memory, merge_bytes<kM, BN>()).template take<float4>(kM * (BN / 16) * kThreads);
    if (thread_group > 0) stage_sums<kM, BN>(acc, sums);
    __syncthreads();
    if (thread_group > 0) return;
    add_sums<kM, BN>(acc, sums);
  }
  store_partial<kM, BN, thin>(w, block, rows, columns, acc);
}

}  // namespace fi
