// What the kernels on wgmma share: one warpgroup copies strips and weights into rings of stages, two multiply.
// The producer gives most of its registers to the consumers; only its first warp copies.
//
// Each stage has two barriers. `full` completes when its bytes have landed; the eight consumer warps wait for it.
// `empty` completes when these have finished the wgmma that read it; the producer waits for it before the next copy.
// Consumers release a stage one step behind: while a group of wgmma runs, the previous one is known to have ended.
// Strips are written by an earlier kernel, and only copy engines and tensor cores access the stages, so no proxy fence
// is needed.
#pragma once
#include "common/cuda_ptx_sm90.cuh"
#include "conv_block/cuda/hopper/strips.cuh"

namespace fi {

struct StageRing {
  uint64_t *full, *empty;
  char* memory;
  int stages, bytes;  // of a stage
  int stage = 0, parity = 0;

  // Called by one thread before a __syncthreads.
  __device__ void start() const {
    for (int i = 0; i < stages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kConsumers * 4);
    }
  }

  __device__ char* here() const { return memory + stage * bytes; }

  __device__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }

  // Producer: waits until the stage is free, then announces its next bytes. Called by the whole warp.
  __device__ void announce(uint32_t coming) {
    mbarrier_wait(empty + stage, parity ^ 1);  // the first round waits for nothing
    if (threadIdx.x % 32 == 0) mbarrier_arrive_expect(full + stage, coming);
    __syncwarp();
  }

  __device__ void copy(char* to, const void* from, uint32_t coming) { bulk_copy(to, from, coming, full + stage); }

  __device__ void wait() const { mbarrier_wait(full + stage, parity); }

  // Marks the stage before this one as read.
  __device__ void release_previous() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty + (stage == 0 ? stages : stage) - 1);
  }
};

// Copies rows of a group's patch for one tile, planes [8 chunk, 8 chunk + 8). Dead ones are zeros. Called by a whole
// warp.
__device__ __forceinline__ void copy_patch(StageRing& ring, char* to, const Strips& s, const StripTaps& taps,
                                           const StripGroup& group, PatchRows rows, const Tile& tile, int step_t,
                                           int chunk) {
  if (rows.count == 0) return;
  bool live = is_live(s, group, tile, step_t);
  int frame = live ? tile.n * s.in_size[0] + tile.t * step_t + group.t : s.frames();
  int strip = live ? tile.w / kStripColumns + group.strip : 0;
  for (int i = threadIdx.x % 32; i < kStripPlanes * group.pieces; i += 32) {
    int plane = i % kStripPlanes, piece = i / kStripPlanes;
    int64_t at = s.at(frame, strip, live ? chunk * kStripPlanes + plane : 0, live ? group.phase + piece : 0);
    if (live) at += (tile.h + group.row + rows.first) * s.columns;
    ring.copy(to + (plane * taps.plane(s) + piece * taps.piece(s) + rows.first * s.columns) * 16,
              static_cast<const char*>(s.data) + at * 16, rows.count * s.columns * 16);
  }
}

}  // namespace fi
