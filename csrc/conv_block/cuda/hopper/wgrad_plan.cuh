// Decides when wgrad runs on wgmma, and its kernel's parameters. The kernel is in hopper/wgrad.cu, which is compiled
// for sm_90a only and may be missing from a library.
#pragma once
#include "conv_block/cuda/kernels/wgrad.cuh"
#include "conv_block/cuda/plan/plan.cuh"

namespace fi {

constexpr int kWgmmaWgradThreads = 256;  // two warpgroups: 288 sums per row of D do not fit the registers of one
constexpr int kWgmmaWgradChannels = 64;  // of P and of Q per block: a row of Q is one 128-byte swizzle row
constexpr int kWgmmaWgradTaps = 9;       // per block: five in the first warpgroup, four in the second
constexpr int kWgmmaWgradFewest = 8;     // least taps; fewer leave tensor cores idle
constexpr int kWgmmaWgradTile = kTileRows * kWgmmaWgradChannels;  // elements of Q per tile
constexpr int kWgmmaWgradLimit = 227 << 10;                       // bytes of shared memory: one block per SM
constexpr int kWgmmaWgradBlocks = 132;                            // SMs of an H200
constexpr int kWgmmaWgradWider = 256, kWgmmaWgradNarrower = 128;  // least channels of the wider and narrower side

__host__ __device__ inline int wgmma_wgrad_patch_elements(const PatchShape& patch) {
  return patch.rows * patch.columns * kWgmmaWgradChannels;
}

inline int wgmma_wgrad_bytes(const PatchShape& patch) {
  return 1024 + shared_part(2 * kWgmmaWgradTile * 2) + 2 * shared_part(wgmma_wgrad_patch_elements(patch) * 2) +
         shared_part(kWgmmaWgradTaps * int(sizeof(int)));
}

}  // namespace fi

// Writes the partials. grid_x: row blocks times column tiles. Null if the library has no code for sm_90a.
FI_EXPORT __attribute__((weak)) int fi_hopper_wgrad_launch(int dtype, const fi::WgradParams* params, int grid_x,
                                                           void* stream);

namespace fi {

// Whether the layer can use this path (whole, aligned vectors) and should be faster. The plan must also fit.
inline bool wgmma_wgrad_applies(const Conv& conv) {
  if (!conv.hopper || !fi_hopper_wgrad_launch || size_of(conv.dtype) != 2) return false;
  bool whole = vectors_aligned(conv.gradient);
  for (int i = 0; i < conv.sources; ++i) whole = whole && vectors_aligned(conv.source[i]);
  int in = in_channels(conv), out = conv.out_channels;
  return whole &&
         (conv.hopper == 2 || (std::max(in, out) >= kWgmmaWgradWider && std::min(in, out) >= kWgmmaWgradNarrower));
}

inline bool wgmma_wgrad_fits(const Conv& conv, const WgradParams& w) {
  return wgmma_wgrad_bytes(w.p.patch) <= kWgmmaWgradLimit &&
         (conv.hopper == 2 || w.p.taps.taps >= kWgmmaWgradFewest * w.blocks);
}

}  // namespace fi
