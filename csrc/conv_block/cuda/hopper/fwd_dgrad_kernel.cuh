// Forward and dgrad as a gather (kernels/gather.cuh) on Hopper's wgmma m64n128k16, from strips. The product is
// transposed:
//
//   A     is 64 output channels x 64 input channels of one tap, K-major, packed so that a step's weights are contiguous
//   B     is the 128 positions of a tile, K-major: the patch of strips with the tap's shift in the descriptor
//   D     has a row per channel and a column per position
//   grid  x: phase of the output, tiles of a block    y: tile of 128 or 64 output channels
//   step  one tap x 64 channels for a consumer: four k16 for each of its tiles
//
// Groups of taps that are dead for all tiles of the block are skipped. Where all groups have the rows above and below
// the input in the same place, the block writes their zeros into all stages once, and copies only the other rows.
#pragma once
#include "conv_block/cuda/hopper/fwd_dgrad_plan.cuh"
#include "conv_block/cuda/hopper/pipeline.cuh"

namespace fi {

// Packs [tap][chunk][column tile][plane][column][8 k]. In p, k and n are exchanged, so that a unit is a vector.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_hopper_kernel(const T* weight, const __grid_constant__ PackParams p, T* packed, int taps, int columns) {
  FI_DYNAMIC_SHARED(memory);
  int chunks = padded(p.n) / kStripChunk, tiles = padded(p.k) / columns;
  pack(weight, p, packed, taps, padded(p.k), memory, [&](int tap, int column, int k) {
    int64_t tile = (int64_t(tap) * chunks + k / kStripChunk) * tiles + column / columns;
    // multiples of whole vectors, or nvcc stores four bytes at a time
    return ((tile * kStripPlanes + k % kStripChunk / kVector) * columns + column % columns) * kVector;
  });
}

using StripSums = float[kTileRows / 8][4];  // of a tile: 64 channels x 128 positions, as wgmma's D

// Transposes the sums into rows of positions.
__device__ __forceinline__ void stage_strip_sums(const StripSums& acc, float* staged) {
  int channel = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, position = threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTileRows / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      staged[(n * 8 + position + i % 2) * pitch<float>(kStripChunk) + channel + i / 2 * 8] = acc[n][i];
}

// Adds the second consumer's sums to the first's, through shared memory.
__device__ __forceinline__ void add_other_sums(StripSums& acc, char* memory, int worker) {
  SharedArena arena(memory, epilogue_bytes(kStripChunk));
  float4* sums = arena.take<float4>(kTileRows / 8 * 128);
  int thread = threadIdx.x % 128;
  if (worker)
#pragma unroll
    for (int n = 0; n < kTileRows / 8; ++n)
      sums[n * 128 + thread] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
  sync_group(kConsumers, kConsumers * 128);
  if (!worker)
#pragma unroll
    for (int n = 0; n < kTileRows / 8; ++n) {
      float4 other = sums[n * 128 + thread];
      acc[n][0] += other.x, acc[n][1] += other.y, acc[n][2] += other.z, acc[n][3] += other.w;
    }
}

// Bit i: group i of the phase is live for a tile of the block. Called by whole warps.
__device__ __forceinline__ unsigned live_groups(const GatherParams& p, const StripGather& g, int phase,
                                                int first_tile) {
  int first = g.taps.first[phase], lane = threadIdx.x % 32;
  bool live = false;
  if (first + lane < g.taps.first[phase + 1])
    for (int i = 0; i < g.tiles(); ++i)
      live =
          live || is_live(g.strips, g.taps.group[first + lane], strip_tile(p, phase, first_tile + i), p.taps.step[0]);
  return __ballot_sync(~0u, live);
}

// Writes the rows of zeros of all stages' patches, in which no copy writes. Called by the whole block before a barrier.
__device__ inline void zero_rows(const GatherParams& p, const StripGather& g, const StripGroup& group, int phase,
                                 int first_tile, char* patches) {
  for (int n = 0; n < g.patch_stages * g.patches(); ++n, patches += g.taps.patch_bytes(g.strips)) {
    PatchRows live = patch_rows(g.strips, group, strip_tile(p, phase, first_tile + n % g.tiles()));
    int before = live.first * g.strips.columns, each = (group.rows - live.count) * g.strips.columns;
    for (int i = threadIdx.x; i < kStripPlanes * group.pieces * each; i += kHopperThreads) {
      int part = i / each, at = i - part * each;
      if (at >= before) at += live.count * g.strips.columns;
      at += part % kStripPlanes * g.taps.plane(g.strips) + part / kStripPlanes * g.taps.piece(g.strips);
      zero_operand(patches + at * 16);
    }
  }
  async_proxy_fence();
}

template <class T, int kEach>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_gather_kernel(const __grid_constant__ GatherParams p, const __grid_constant__ StripGather g,
                         int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  uint64_t* barriers = arena.take<uint64_t>(2 * (kWeightStages + g.patch_stages));
  char* rest = arena.at;
  StageRing weights{barriers, barriers + kWeightStages, nullptr, kWeightStages, g.weight_bytes()};
  uint64_t* others = barriers + 2 * kWeightStages;
  StageRing patches{others, others + g.patch_stages, nullptr, g.patch_stages, g.patch_bytes()};
  weights.memory = arena.take<char>(kWeightStages * weights.bytes);
  patches.memory = arena.take<char>(patches.stages * patches.bytes);
  if (threadIdx.x == 0) {
    weights.start();
    patches.start();
    mbarrier_init_fence();
  }
  int worker = __shfl_sync(~0u, threadIdx.x / 128, 0);  // tells the compiler that it is uniform in the warp
  int phase = blockIdx.x / g.phase_blocks, first_tile = blockIdx.x % g.phase_blocks * g.tiles();
  int chunks = p.chunks[0] + p.chunks[1], patch = g.taps.patch_bytes(g.strips);
  unsigned live = live_groups(p, g, phase, first_tile);
  const StripGroup* groups = g.taps.group + g.taps.first[phase];
  if (live && g.keeps_zeros) zero_rows(p, g, *groups, phase, first_tile, patches.memory);
  __syncthreads();

  int index = p.segments > 1 && int(blockIdx.y) >= p.segment[1].first_tile;
  const Segment& segment = p.segment[index];
  int column_tile = blockIdx.y - segment.first_tile;

  if (worker == kConsumers) {
    set_registers<kProducerRegisters, false>();
    if (threadIdx.x % 128 >= 32) return;
    int64_t tiles = p.n_padded / g.columns(), tile = segment.first_column / g.columns() + column_tile;
    // lane n has what is copied of the patch of tile n, if zero_rows has written the rest
    PatchRows mine = patch_rows(g.strips, *groups, strip_tile(p, phase, first_tile + threadIdx.x % 32 % g.tiles()));
    int some = 0;
    for (int n = 0; n < g.tiles(); ++n) some += __shfl_sync(~0u, mine.count, n);
    for (int chunk = 0; chunk < chunks; chunk += g.chunks())
      for (unsigned left = live, i = 0; left; left >>= 1, ++i) {
        if (!(left & 1)) continue;
        const StripGroup& group = groups[i];
        int rows = g.keeps_zeros ? some : g.tiles() * group.rows;
        patches.announce(g.chunks() * rows * group.pieces * g.strips.columns * kStripPlanes * 16);
        for (int n = 0; n < g.patches(); ++n) {
          PatchRows of_tile{__shfl_sync(~0u, mine.first, n % g.tiles()), __shfl_sync(~0u, mine.count, n % g.tiles())};
          if (!g.keeps_zeros) of_tile = {0, group.rows};
          copy_patch(patches, patches.here() + n * patch, g.strips, g.taps, group, of_tile,
                     strip_tile(p, phase, first_tile + n % g.tiles()), p.taps.step[0], chunk + n / g.tiles());
        }
        patches.advance();
        for (int l = 0; l < group.count; ++l) {
          weights.announce(weights.bytes);
          if (int n = threadIdx.x % 32; n < g.chunks()) {
            int64_t at = (int64_t(g.taps.tap[group.first + l].index) * chunks + chunk + n) * tiles + tile;
            const char* from = static_cast<const char*>(p.weight) + at * g.chunk_bytes();
            weights.copy(weights.here() + n * g.chunk_bytes(), from, g.chunk_bytes());
          }
          weights.advance();
        }
      }
    return;
  }

  set_registers<kConsumerRegisters, true>();
  bool by_channels = g.divided == Divided::channels, by_chunks = g.divided == Divided::chunks;
  int mine = by_channels ? 0 : worker * kEach, channel = by_channels ? worker * kStripChunk : 0;
  uint32_t plane = g.columns() * 16, of_patch = g.taps.plane(g.strips) * 16;
  uint64_t a_first = descriptor(weights.memory + channel * 16 + (by_chunks ? worker * g.chunk_bytes() : 0), plane, 128);
  uint64_t b_first = descriptor(patches.memory + mine * patch, of_patch, g.strips.columns * 16);
  StripSums acc[kEach] = {};
  bool begun = false;
  for (int chunk = 0; chunk < chunks; chunk += g.chunks())
    for (unsigned left = live, i = 0; left; left >>= 1, ++i) {
      if (!(left & 1)) continue;
      const StripGroup& group = groups[i];
      patches.wait();
      uint64_t b_patch = b_first + patches.stage * (patches.bytes >> 4);
      for (int l = 0; l < group.count; ++l) {
        weights.wait();
        uint64_t a = a_first + weights.stage * (weights.bytes >> 4), b = b_patch + g.taps.tap[group.first + l].at;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kStripChunk / 16; ++k)
#pragma unroll
          for (int n = 0; n < kEach; ++n)
            wgmma_m64n128k16<T, false>(acc[n], a + k * 2 * (plane >> 4),
                                       b + k * 2 * (of_patch >> 4) + n * (patch >> 4));
        wgmma_commit();
        wgmma_wait<1>();
        if (begun) weights.release_previous();
        if (begun && l == 0) patches.release_previous();
        begun = true;
        weights.advance();
      }
      patches.advance();
    }
  wgmma_wait<0>();
#pragma unroll
  for (int n = 0; n < kEach; ++n) wgmma_settled(acc[n]);

  sync_group(kConsumers, kConsumers * 128);  // both have finished reading this memory
  if (by_chunks) {
    add_other_sums(acc[0], rest, worker);
    if (worker) return;
  }
  SegmentTile place{&segment, column_tile * g.columns() + channel};
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    int tile = first_tile + (by_chunks ? 0 : mine) + n;
    if (tile >= g.phase_tiles || place.channel >= segment.channels) continue;
    epilogue<T, kStripChunk>(p, strip_tile(p, phase, tile), place, phase * g.phase_tiles + tile,
                             rest + worker * epilogue_bytes(kStripChunk), epilogue_bytes(kStripChunk),
                             Warpgroup{worker}, [&](float* staged) { stage_strip_sums(acc[n], staged); });
  }
}

}  // namespace fi
