// Kernels of `masked_l1` on the CPU: arguments, and the entry of each instruction set.
//
// `D` below is the storage type: float, double or bfloat16. output, target and doutput share one dense layout of
// [N, C, frames, pixels], planar or with the channels innermost; mask is D [N, frames, pixels], one channel.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace fi {

struct MaskedL1 {
  const void* output;
  const void* target;
  const void* mask;
  int64_t batch, channels, frames, pixels;
  int64_t planar;  // 1: a frame's channels are planes `frames * pixels` apart; 0: they are innermost
  int64_t dtype;   // 0 float, 1 double, 2 bfloat16
};

// Of one frame of one sample, item = n * frames + t; sums are double.
//   error = sum over channels and pixels of mask * |output - target|
//   holes = sum over pixels of mask
//   doutput = factor * mask * sign(output - target)
FI_DECLARE_EACH_ISA(void masked_l1_error(const MaskedL1&, int64_t item, double* error))
FI_DECLARE_EACH_ISA(void masked_l1_holes(const MaskedL1&, int64_t item, double* holes))
FI_DECLARE_EACH_ISA(void masked_l1_bwd(const MaskedL1&, int64_t item, double factor, void* doutput))

}  // namespace fi
