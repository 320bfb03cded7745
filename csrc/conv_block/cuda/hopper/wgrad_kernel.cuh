// wgrad (kernels/wgrad.cuh) on Hopper's wgmma m64n64k16. k runs over positions, so both factors need a transposition:
//
//   A      is 64 channels of P at one tap. ldmatrix.trans transposes them from P's activated patch into registers. The
//          patch is swizzled like B instead of padded, so that two patches fit at a dilation of 8.
//   B      is 64 channels of Q, one 128-byte row per position, swizzled as it is activated into shared memory. wgmma
//          transposes it, as it reads 16-bit values in either order.
//   block  is two warpgroups: nine taps of one plane x 64 channels of P, 64 of Q. The first warpgroup has taps 0 ... 4,
//          the second 5 ... 8, each tap a separate product. Missing taps read the first one's and are not stored.
//   step   is one k16 of the tile's 128 positions.
//
// Synchronisation. A group is one wgmma. Before an ldmatrix at most one group is in flight, on other registers. A step
// ends when all groups are done. Q is written by threads and read by tensor cores through the async proxy, so each
// thread fences its writes before the barrier that ends the tile. At that barrier all threads have also finished
// reading the other half of the memory, which is written next.
#pragma once
#include "common/cuda_ptx_sm90.cuh"
#include "conv_block/cuda/hopper/wgrad_plan.cuh"

namespace fi {

constexpr int kFirstTaps = (kWgmmaWgradTaps + 1) / 2;  // taps of the first warpgroup

using TapSums = float[kFirstTaps][kWgmmaWgradChannels / 8][4];

// The place of eight channels of a position: unit i of a 128-byte row is at i ^ position % 8, so that adjacent
// positions are in different banks.
__device__ __forceinline__ int swizzled(int position, int group) {
  return position * kWgmmaWgradChannels + int(unsigned(group ^ position) % (kWgmmaWgradChannels / kVector)) * kVector;
}

// acc[i] += P^T Q of the warpgroup's tap i over 16 positions. position, group: the lane's place in the patch, for
// ldmatrix.
template <class T, int taps>
__device__ __forceinline__ void multiply_taps(TapSums& acc, const T* patch, int position, int group, const int* offsets,
                                              uint64_t b) {
  uint32_t a[2][4];  // two taps: one is loaded while the tensor cores read the other
#pragma unroll
  for (int i = 0; i < taps; ++i) {
    if (i >= 2) wgmma_wait<1>();
    ldmatrix_x4<true>(a[i % 2], patch + swizzled(position + offsets[i], group));
    wgmma_fence();
    wgmma_transposed_b_m64n64k16<T>(acc[i], a[i % 2], b);
    wgmma_commit();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < taps; ++i) wgmma_settled(acc[i]);
}

// Like BoxLoader of the other kernels, but with whole vectors only and one set of registers for P's box and then Q's,
// because the sums leave no more registers.
template <class T>
struct AlternatingLoader {
  static constexpr int kGroups = kWgmmaWgradChannels / kVector;

  Slice<T> slice;
  const T *x, *addend;  // of the plane, at the thread's channels; x is null if nothing is read
  int channels, h, w;   // h, w: first position of the box

  __device__ void begin(const Source& source, int first_channel, const int* size, int64_t plane, int first_h,
                        int first_w) {
    int channel = first_channel + threadIdx.x % kGroups * kVector;
    slice.set_params(source, channel);
    channels = source.channels, h = first_h, w = first_w;
    int64_t offset = plane * size[1] * size[2] * channels + channel;
    x = channel >= channels ? nullptr : static_cast<const T*>(source.x) + offset;
    addend = source.addend ? static_cast<const T*>(source.addend) + offset : nullptr;
  }

  __device__ static int slices(const PatchShape& box) {
    return ceil_div(box.rows * box.columns * kGroups, kSliceVectors * kWgmmaWgradThreads);
  }

  __device__ static int position(int index, int i) {
    return ((index * kSliceVectors + i) * kWgmmaWgradThreads + int(threadIdx.x)) / kGroups;
  }

  __device__ void load(const PatchShape& box, const int* size, int index) {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(index, i), row = at * box.inverse >> 20;
      int y = h + row * box.step_h, z = w + (at - row * box.columns) * box.step_w;
      slice.inside[i] = row < box.rows && x && unsigned(y) < unsigned(size[1]) && unsigned(z) < unsigned(size[2]);
      slice.value[i] = slice.more[i] = zero_vector<T>();
      if (!slice.inside[i]) continue;
      int64_t offset = int64_t(y * size[2] + z) * channels;
      slice.value[i] = load_vector(x + offset, kVector, true);
      if (addend) slice.more[i] = load_vector(addend + offset, kVector, true);
    }
  }

  // Must follow the products: earlier the compiler would widen the values, which takes twice the registers.
  __device__ void keep() {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      keep_packed(reinterpret_cast<uint4&>(slice.value[i]));
      keep_packed(reinterpret_cast<uint4&>(slice.more[i]));
    }
  }

  // Calls put(position, values) for each activated vector.
  template <class Put>
  __device__ void store(const PatchShape& box, int index, Put put) const {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(index, i);
      if (at >= box.rows * box.columns) continue;
      put(at,
          slice.inside[i] ? activate<T>(slice.value[i], slice.more[i], slice.params, slice.relu) : zero_vector<T>());
    }
  }
};

__device__ __forceinline__ void store_wgmma_partial(const WgradParams& w, const TapBlock& block, const Part& rows,
                                                    const Part& columns, const TapSums& acc) {
  int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4, first = threadIdx.x / 128 * kFirstTaps;
  int row = rows.channel + threadIdx.x / 32 % 4 * 16 + t % 2 * 8 + group;
#pragma unroll
  for (int i = 0; i < kFirstTaps; ++i) {
    if (first + i >= block.count) continue;
    int tap = w.p.taps.tap[block.first + first + i].index;
    int64_t at = (int64_t(blockIdx.y) * w.p.taps.taps + tap) * w.p_channels + rows.first + row;
#pragma unroll
    for (int n = 0; n < kWgmmaWgradChannels / 8; ++n) {
      float4 value = join_columns(acc[i][n]);
      int q = columns.channel + n * 8 + t / 2 * 4;
      if (row < rows.source->channels && q < columns.source->channels)
        *reinterpret_cast<float4*>(w.partial + at * w.q_channels + columns.first + q) = value;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kWgmmaWgradThreads, 1)
    hopper_wgrad_kernel(const __grid_constant__ WgradParams w, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  const GatherParams& p = w.p;
  arena.at += -shared_address(arena.at) & 1023;
  T* q_tiles = arena.take<T>(2 * kWgmmaWgradTile);
  T* first_patch = arena.take<T>(wgmma_wgrad_patch_elements(p.patch));
  T* second_patch = arena.take<T>(wgmma_wgrad_patch_elements(p.patch));
  int* offsets = arena.take<int>(kWgmmaWgradTaps);  // of the taps in the patch, in positions

  int column_tiles = w.q_tiles[0] + w.q_tiles[1], rows_index = blockIdx.x / column_tiles;
  const TapBlock& block = w.block[rows_index % w.blocks];
  Part rows = find_part(p.source, p.chunks[0], rows_index / w.blocks, kWgmmaWgradChannels);
  Part columns = find_part(w.q, w.q_tiles[0], blockIdx.x % column_tiles, kWgmmaWgradChannels);
  if (threadIdx.x < kWgmmaWgradTaps) {  // published by the first tile's barrier
    const Tap& tap = p.taps.tap[block.first + (int(threadIdx.x) < block.count ? threadIdx.x : 0)];
    offsets[threadIdx.x] = (tap.h - block.h) * p.patch.columns + tap.w - block.w;
  }

  int end = min(w.tiles, (int(blockIdx.y) + 1) * w.tiles_each);
  auto find_live = [&](int from) {  // the next tile with live taps, or `end`
    while (from < end && !live_taps<false>(p, nth_tile(p, from), block)) ++from;
    return from;
  };
  int next = find_live(blockIdx.y * w.tiles_each);

  using Loader = AlternatingLoader<T>;
  int p_slices = Loader::slices(p.patch), slices = p_slices + Loader::slices(w.q_box);
  Loader loader;
  auto load = [&](int slice) {  // of the tile `next`
    if (slice == 0) {
      Tile tile = nth_tile(p, next);
      int t = tile.t * p.taps.step[0] + block.t;
      loader.begin(*rows.source, rows.channel, p.in_size, int64_t(tile.n) * p.in_size[0] + t,
                   tile.h * p.taps.step[1] + block.h, tile.w * p.taps.step[2] + block.w);
    } else if (slice == p_slices) {
      Tile tile = nth_tile(p, next);
      loader.begin(*columns.source, columns.channel, p.out_size, int64_t(tile.n) * p.out_size[0] + tile.t, tile.h,
                   tile.w);
    }
    slice < p_slices ? loader.load(p.patch, p.in_size, slice) : loader.load(w.q_box, p.out_size, slice - p_slices);
  };
  auto store = [&](int slice, T* patch, T* q) {
    if (slice < p_slices) {
      loader.store(p.patch, slice, [&](int at, const Vector<T>& values) {
        store_vector(patch + swizzled(at, threadIdx.x), values, kVector, true);
      });
    } else {
      loader.store(w.q_box, slice - p_slices, [&](int at, const Vector<T>& values) {
        store_operand(q + swizzled(at, threadIdx.x), reinterpret_cast<const uint4&>(values));
      });
    }
  };

  int lane = threadIdx.x % 32, group = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
  TapSums acc = {};
  if (next < end) {
    for (int slice = 0; slice < slices; ++slice) {
      load(slice);
      store(slice, first_patch, q_tiles);
    }
    fence_proxy_async();
  }
  for (int half = 0; next < end; half ^= 1) {
    const T* patch = half ? second_patch : first_patch;
    T *next_patch = half ? first_patch : second_patch, *next_q = q_tiles + (half ^ 1) * kWgmmaWgradTile;
    next = find_live(next + 1);
    int to_load = next < end ? slices : 0, slice = 0;
    __syncthreads();  // this tile is complete and visible; the previous one has been read
    uint64_t b = descriptor(q_tiles + half * kWgmmaWgradTile);
#pragma unroll 1
    for (int k = 0; k < kTileRows / 16; ++k, b += 2048 >> 4) {
      bool loads = slice < to_load;
      if (loads) load(slice);
      int position = box_position(p.patch, p.tile_bits, k * 16 + lane / 16 * 8 + lane % 8);
      if (threadIdx.x < 128)
        multiply_taps<T, kFirstTaps>(acc, patch, position, group, offsets, b);
      else
        multiply_taps<T, kWgmmaWgradTaps - kFirstTaps>(acc, patch, position, group, offsets + kFirstTaps, b);
      loader.keep();
      if (loads) store(slice++, next_patch, next_q);
    }
    for (; slice < to_load; ++slice) {
      load(slice);
      store(slice, next_patch, next_q);
    }
    fence_proxy_async();
  }
  store_wgmma_partial(w, block, rows, columns, acc);
}

}  // namespace fi
