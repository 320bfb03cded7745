// Forward and dgrad as a gather (kernels/gather.cuh) on Hopper's wgmma m64n128k16.
//
//   A     is read by ldmatrix from the patch of activated values into registers, so the prologue stays fused. The block
//         is one warpgroup, which multiplies 128 rows as two m64.
//   B     is 128 columns x 64 channels of one tap. It is packed beforehand in wgmma's layout (128-byte swizzle, k
//         contiguous), so a tile is 16 contiguous KiB and one bulk copy.
//   step  is one tap x 64 channels: four k16 of two wgmma each; the two form a group.
//
// Synchronisation. Each stage of the ring has two barriers. `full` completes when its 16 KiB have landed; all threads
// wait for it. `empty` completes when the four warps have finished the groups that read the stage; only thread 0 waits
// for it, before it starts the next copy. wait_group<1> before an ldmatrix leaves one group in flight and frees the
// other group's registers. __syncthreads is needed only where the patch changes. A uses ordinary accesses only, B only
// the copy engine and tensor cores, so no proxy fence is needed.
#pragma once
#include "common/cuda_ptx_sm90.cuh"
#include "conv_block/cuda/hopper/fwd_dgrad_plan.cuh"

namespace fi {

// Packs [tap][chunk][column tile] of 128 columns x 64 channels. A column's 128 bytes are swizzled in 16-byte units:
// unit i is stored at i ^ column % 8. In p, k and n are exchanged, so that a unit is a vector.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_hopper_kernel(const T* weight, const __grid_constant__ PackParams p, T* packed, int taps) {
  FI_DYNAMIC_SHARED(memory);
  int chunks = padded(p.n) / kHopperChunk, tiles = padded(p.k) / kHopperColumns;
  pack(weight, p, packed, taps, padded(p.k), memory, [&](int tap, int column, int k) {
    int64_t tile = (int64_t(tap) * chunks + k / kHopperChunk) * tiles + column / kHopperColumns;
    int piece = k / kVector ^ column;
    // multiples of whole vectors, or nvcc stores four bytes at a time
    return ((tile * kHopperColumns + column % kHopperColumns) * (kHopperChunk / kVector) + piece % kVector) * kVector;
  });
}

// The ring of weight stages. All threads advance it; thread 0 starts the copies.
struct WeightRing {
  char* stages;
  uint64_t *full, *empty;
  int stage = 0, parity = 0;  // of the next step

  __device__ void start(uint64_t* barriers) {
    full = barriers, empty = barriers + kStages;
    if (threadIdx.x != 0) return;
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kThreads / 32);
    }
    mbarrier_init_fence();
  }

  __device__ __forceinline__ void ask(int slot, const void* tile) {
    mbarrier_arrive_expect(full + slot, kStageBytes);
    bulk_copy(stages + slot * kStageBytes, tile, kStageBytes, full + slot);
  }

  __device__ __forceinline__ void wait() { mbarrier_wait(full + stage, parity); }

  // Marks this step's stage as read.
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty + stage);
  }

  // Called by thread 0 after its release if a tile is left for the stage.
  __device__ __forceinline__ void refill(const void* tile) {
    mbarrier_wait(empty + stage, parity);  // a stage is filled and emptied once per phase
    ask(stage, tile);
  }

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

using HopperSums = float[2][kHopperColumns / 8][4];  // of a warp: rows 64 m + 16 warp and on, as wgmma's D

__device__ __forceinline__ void stage_sums(const HopperSums& acc, float* staged) {
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kHopperColumns / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(staged + (m * 64 + half * 8 + row) * pitch<float>(kHopperColumns) + n * 8 + column) =
            make_float2(acc[m][n][2 * half], acc[m][n][2 * half + 1]);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    hopper_gather_kernel(const __grid_constant__ GatherParams p, int elements, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  WeightRing ring;
  ring.start(arena.take<uint64_t>(2 * kStages));
  char* rest = arena.at;
  arena.at += -shared_address(arena.at) & 1023;
  ring.stages = arena.take<char>(kStages * kStageBytes);
  T* first_patch = arena.take<T>(elements);
  T* second_patch = arena.take<T>(elements);
  int2* live = arena.take<int2>(kMaxTaps);
  int2* starts = arena.take<int2>(kMaxTaps);
  int* counts = arena.take<int>(kThreads / 32);

  Tile tile = find_tile(p);
  int taps, groups;
  list_taps(p, tile, live, starts, counts, taps, groups);  // its __syncthreads also publish the ring's barriers
  SegmentTile place = find_segment<kHopperColumns>(p);
  int chunks = p.chunks[0] + p.chunks[1], patches = chunks * groups;
  int column_tile = (place.segment->first_column + place.channel) / kHopperColumns;
  int tiles = p.n_padded / kHopperColumns, next_tap = 0, next_chunk = 0;
  auto next_weights = [&] {  // the packed tile of the next copy
    int tap = p.taps.tap[live[next_tap].y].index;
    int64_t tile_index = (tap * chunks + next_chunk) * tiles + column_tile;
    if (++next_tap == taps) next_tap = 0, ++next_chunk;
    return static_cast<const char*>(p.weight) + tile_index * kStageBytes;
  };

  HopperSums acc = {};
  uint32_t a[2][2][4];  // two k16: one is loaded while the tensor cores read the other
  int lane = threadIdx.x % 32, row_offset[2];
#pragma unroll
  for (int m = 0; m < 2; ++m)
    row_offset[m] = box_position(p.patch, p.tile_bits, m * 64 + threadIdx.x / 32 * 16 + lane % 16) * kHopperPitch +
                    lane / 16 * kVector;
  BoxLoader<T, kHopperChunk / kVector> loader(p.patch, p.in_size);
  Slice<T> loading;
  if (threadIdx.x == 0)
    for (int i = 0; i < min(kStages, taps * chunks); ++i) ring.ask(i, next_weights());
  if (patches > 0) {
    begin_patch(p, tile, loader, loading, 0, true, starts[0].y);
    for (int slice = 0; slice < loader.slices(); ++slice) {
      loader.load(slice, loading);
      loader.store(slice, loading, first_patch);
    }
  }
  for (int patch = 0, chunk = 0, group = 0; patch < patches; ++patch) {
    int end = group + 1 < groups ? starts[group + 1].x : taps, slice = 0;
    int first = starts[group].x;
    if (++group == groups) group = 0, ++chunk;
    bool more = patch + 1 < patches;
    if (more) begin_patch(p, tile, loader, loading, chunk, group == 0, starts[group].y);
    const T* current = patch % 2 ? second_patch : first_patch;
    T* next = patch % 2 ? first_patch : second_patch;
    __syncthreads();  // this patch is complete; the previous one has been read
    for (int l = first; l < end; ++l) {
      bool loads = more && slice < loader.slices();
      if (loads) loader.load(slice, loading);
      const T* at = current + live[l].x * kHopperPitch;
      ring.wait();
      uint64_t b = descriptor(ring.stages + ring.stage * kStageBytes);
#pragma unroll
      for (int k = 0; k < kHopperChunk / 16; ++k) {
        if (k >= 2) wgmma_wait<1>();
#pragma unroll
        for (int m = 0; m < 2; ++m) ldmatrix_x4<false>(a[k % 2][m], at + row_offset[m] + k * 16);
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < 2; ++m) wgmma_m64k16<T>(acc[m], a[k % 2][m], b + k * (32 >> 4));
        wgmma_commit();
      }
      if (loads) loader.store(slice++, loading, next);
      wgmma_wait<0>();
#pragma unroll
      for (int m = 0; m < 2; ++m) wgmma_settled(acc[m]);
      ring.release();
      if (threadIdx.x == 0 && next_chunk < chunks) ring.refill(next_weights());
      __syncwarp();
      ring.advance();
    }
    for (; more && slice < loader.slices(); ++slice) {
      loader.load(slice, loading);
      loader.store(slice, loading, next);
    }
  }
  epilogue<T, kHopperColumns>(p, tile, rest, shared_bytes - int(rest - memory),
                              [&](float* staged) { stage_sums(acc, staged); });
}

}  // namespace fi
