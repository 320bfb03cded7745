// Decides when forward and dgrad run on sm_90a's wgmma, and plans it: as the gathering kernels, with steps of 64
// channels and tiles of 128 columns. The kernels are in hopper/fwd_dgrad.cu, which is compiled for sm_90a only and may
// be missing from a library.
#pragma once
#include "conv_block/cuda/plan/plan.cuh"

namespace fi {

constexpr int kHopperChunk = 64, kHopperColumns = 128;  // per step: eight rows of B are one 1024-byte swizzle atom
constexpr int kStageBytes = kHopperChunk * kHopperColumns * 2;
constexpr int kStages = 3;                            // of weights, 48 KiB
constexpr int kHopperPitch = kHopperChunk + kVector;  // of a patch's rows, in elements
constexpr int kHopperPatchLimit = 29 << 10;  // bytes; two patches, the stages and the lists leave two blocks per SM
constexpr int kHopperChannels = 256, kHopperFewest = 128;  // least channels of the wider and narrower side
constexpr int kHopperBlocks = 128;                         // with fewer, narrower tiles occupy more SMs of an H200
constexpr int kBarrierBytes = 2 * kStages * int(sizeof(uint64_t));

inline int hopper_patch_elements(const PatchShape& patch) { return patch.rows * patch.columns * kHopperPitch; }

// Shared memory: the barriers, then the main loop's parts, which the epilogue reuses. Stages are aligned to 1024 bytes.
inline int hopper_bytes(const PatchShape& patch) {
  int loop = 1024 + shared_part(kStages * kStageBytes) + 2 * shared_part(hopper_patch_elements(patch) * 2) +
             2 * shared_part(kMaxTaps * int(sizeof(int2))) + shared_part(kThreads / 32 * int(sizeof(int)));
  return shared_part(kBarrierBytes) + std::max(loop, epilogue_bytes(kHopperColumns));
}

}  // namespace fi

// Packs the weights and launches. Null if the library has no code for sm_90a.
FI_EXPORT __attribute__((weak)) int fi_hopper_launch(const fi::Conv* conv, const fi::GatherPlan* plan, void* stream);

namespace fi {

inline bool hopper_takes(const Conv& conv, const GatherPlan& plan) {
  if (!conv.hopper || !fi_hopper_launch || size_of(conv.dtype) != 2 || plan.thin) return false;
  int in = in_channels(conv), out = conv.out_channels, column_tiles = 0;
  for (int i = 0; i < plan.params.segments; ++i)
    column_tiles += ceil_div(plan.params.segment[i].channels, kHopperColumns);
  return conv.hopper == 2 || (std::max(in, out) >= kHopperChannels && std::min(in, out) >= kHopperFewest &&
                              int64_t(plan.tiles) * column_tiles >= kHopperBlocks);
}

// Adapts plan_gather's plan. Returns a Status.
inline int plan_hopper(const Conv& conv, bool backward, GatherPlan& plan) {
  GatherParams& p = plan.params;
  Workspace workspace{static_cast<char*>(conv.workspace)};
  plan_sources(conv, backward, plan, kHopperChunk);
  plan_segments(conv, backward, plan, workspace, kHopperColumns);
  plan.columns = kHopperColumns;
  plan.groups = choose_patch(p.taps, p.tile_bits, kHopperPitch * 2, kHopperPatchLimit, p.origin, p.patch);
  plan_column_tiles(plan);
  p.weight = workspace.take(int64_t(plan.taps) * p.k_padded * p.n_padded * 2);
  plan.workspace = workspace.used;
  plan.hopper = true;
  return kOk;
}

}  // namespace fi
