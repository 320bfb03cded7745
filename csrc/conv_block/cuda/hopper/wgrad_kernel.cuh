// wgrad on Hopper's wgmma m64n128k16, from strips: dw[tap][p][q] = sum over positions j of P[j * step + tap][p]
// Q[j][q].
//
//   k       runs over positions: a k16 is two rows of eight of a tile of 16 rows x 8 columns
//   A       is 64 channels of P at one tap, MN-major: the patch of P with the tap's shift in the descriptor
//   B       is 128 channels of Q, MN-major. Where dgrad has written G's strips, its halo is copied too, and skipped.
//   grid    x: pair of units, tile of 128 channels of Q    y: split of the tiles
//   stage   the patches of both units and Q, of one tile. Tiles where both units are dead are skipped.
//   sums    of up to three taps per warpgroup
//   partial [split][tap][p][q] float32, all written; reduce_kernel sums the splits in order
#pragma once
#include "conv_block/cuda/hopper/pipeline.cuh"
#include "conv_block/cuda/hopper/wgrad_plan.cuh"
#include "conv_block/cuda/kernels/wgrad.cuh"

namespace fi {

// The next tile from `tile` on for which one of both units is live, or `end`.
__device__ inline int next_live(const StripWgrad& w, const StripGroup& first, const StripGroup& second, int tile,
                                int end) {
  for (; tile < end; ++tile) {
    Tile at = strip_tile(w.p, 0, tile);
    if (is_live(w.rows, first, at, w.p.taps.step[0]) || is_live(w.rows, second, at, w.p.taps.step[0])) break;
  }
  return tile;
}

__device__ inline void copy_q(StageRing& ring, char* to, const StripWgrad& w, const Tile& tile, int q_tile) {
  const Strips& s = w.columns;
  int plane = threadIdx.x % 32;
  if (plane >= kStripWgradColumns / kVector) return;
  int64_t at =
      s.at(tile.n * s.in_size[0] + tile.t, tile.w / kStripColumns, q_tile * (kStripWgradColumns / kVector) + plane, 0);
  at += (tile.h - s.low[0]) * s.columns;
  ring.copy(to + plane * w.q_plane() * 16, static_cast<const char*>(s.data) + at * 16, w.q_plane() * 16);
}

// The channel of a source's padded chunk in the concatenation, and how many channels exist from there on.
struct ChunkChannels {
  int first, valid;
};

__device__ inline ChunkChannels chunk_channels(const Strips& s, int chunk) {
  bool second = chunk >= s.chunks[0];
  int channel = (chunk - (second ? s.chunks[0] : 0)) * kStripChunk;
  return {channel + (second ? s.source[0].channels : 0), s.source[second].channels - channel};
}

template <int kTaps>
__device__ void store_sums(const StripWgrad& w, const StripGroup& group, int chunk, int q_tile,
                           const float (&acc)[kTaps][16][4]) {
  ChunkChannels rows = chunk_channels(w.rows, chunk);
  ChunkChannels columns = chunk_channels(w.columns, q_tile * (kStripWgradColumns / kStripChunk));
  int group_row = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  int row = threadIdx.x % 128 / 32 * 16 + t % 2 * 8 + group_row;
  bool aligned = w.q_channels % 4 == 0 && columns.first % 4 == 0 && columns.valid % 4 == 0;
#pragma unroll
  for (int i = 0; i < kTaps; ++i) {
    if (i >= group.count) continue;
    int64_t tap = int64_t(blockIdx.y) * w.p.taps.taps + w.taps.tap[group.first + i].index;
    float* to = w.partial + (tap * w.p_channels + rows.first + row) * w.q_channels + columns.first;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      float4 value = join_columns(acc[i][n]);
      int q = n * 8 + t / 2 * 4, valid = row < rows.valid ? columns.valid - q : 0;
      if (aligned) {
        if (valid > 0) *reinterpret_cast<float4*>(to + q) = value;
        continue;
      }
      float each[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < valid) to[q + j] = each[j];
    }
  }
}

template <class T, int kTaps>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_wgrad_kernel(const __grid_constant__ StripWgrad w, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  uint64_t* barriers = arena.take<uint64_t>(2 * w.stages);
  StageRing ring{barriers, barriers + w.stages, arena.take<char>(w.stages * w.stage_bytes()), w.stages,
                 w.stage_bytes()};
  if (threadIdx.x == 0) {
    ring.start();
    mbarrier_init_fence();
  }
  __syncthreads();

  int worker = __shfl_sync(~0u, threadIdx.x / 128, 0);  // tells the compiler that it is uniform in the warp
  int pair = blockIdx.x / w.q_tiles, q_tile = blockIdx.x % w.q_tiles, chunks = w.row_chunks();
  int unit = pair * kConsumers, other = min(unit + 1, w.units - 1);  // the last may be doubled
  const StripGroup &first = w.taps.group[unit / chunks], &second = w.taps.group[other / chunks];
  int end = min(w.tiles, (int(blockIdx.y) + 1) * w.tiles_each);
  int tile = next_live(w, first, second, blockIdx.y * w.tiles_each, end), patch = w.taps.patch_bytes(w.rows);

  if (worker == kConsumers) {
    set_registers<kProducerRegisters, false>();
    if (threadIdx.x % 128 >= 32) return;
    uint32_t bytes = (first.rows * first.pieces + second.rows * second.pieces) * w.rows.columns * kStripPlanes * 16;
    for (; tile < end; tile = next_live(w, first, second, tile + 1, end)) {
      Tile at = strip_tile(w.p, 0, tile);
      ring.announce(bytes + w.q_bytes());
      copy_patch(ring, ring.here(), w.rows, w.taps, first, {0, first.rows}, at, w.p.taps.step[0], unit % chunks);
      copy_patch(ring, ring.here() + patch, w.rows, w.taps, second, {0, second.rows}, at, w.p.taps.step[0],
                 other % chunks);
      copy_q(ring, ring.here() + kConsumers * patch, w, at, q_tile);
      ring.advance();
    }
    return;
  }

  set_registers<kConsumerRegisters, true>();
  const StripGroup& group = worker ? second : first;
  int shift[kTaps];
#pragma unroll
  for (int i = 0; i < kTaps; ++i) shift[i] = w.taps.tap[group.first + (i < group.count ? i : 0)].at;
  uint32_t row = w.rows.columns * 16;
  uint64_t a_first = descriptor(ring.memory + worker * patch, row, w.taps.plane(w.rows) * 16);
  int q_row = w.columns.columns, q_first = kConsumers * patch - w.columns.low[1] * 16;  // past the halo
  uint64_t b_first = descriptor(ring.memory + q_first, q_row * 16, w.q_plane() * 16);
  float acc[kTaps][16][4] = {};
  for (bool begun = false; tile < end; begun = true, tile = next_live(w, first, second, tile + 1, end)) {
    ring.wait();
    uint64_t a = a_first + ring.stage * (ring.bytes >> 4), b = b_first + ring.stage * (ring.bytes >> 4);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileRows / 16; ++k)
#pragma unroll
      for (int i = 0; i < kTaps; ++i)
        wgmma_m64n128k16<T, true>(acc[i], a + shift[i] + k * 2 * (row >> 4), b + k * 2 * q_row);
    wgmma_commit();
    wgmma_wait<1>();
    if (begun) ring.release_previous();
    ring.advance();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kTaps; ++i) wgmma_settled(acc[i]);
  if (worker == 0 || other != unit) store_sums<kTaps>(w, group, (worker ? other : unit) % chunks, q_tile, acc);
}

}  // namespace fi
