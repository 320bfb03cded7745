// Kernels of `channel_scale` on the CPU: arguments, and the entry of each instruction set.
//
//     p = a * s,   da = dp * s,   ds = sum over the sample's pixels of dp * a
//
// Forward is torch's. Maps are channels-last, `[pixels, C]`; one call takes a block of pixels of one sample. `D` below
// is the storage type: float, double or Bf16. Sums are double.
#pragma once

#include <cstdint>

#include "activation/cpu.h"
#include "common/cpu_isa.h"

namespace fi {

struct ChannelScaleBwd {
  const void *dp, *a;  // D [pixels, channels]
  const void* s;       // D [channels]
  void* da;            // D [pixels, channels] or null
  double* sums;        // [channels] of the block: ds
  int64_t channels;
  bool past_caches;  // whether da is written so
};

FI_DECLARE_EACH_ISA(void channel_scale_bwd(const ChannelScaleBwd&, Dtype, int64_t begin, int64_t end))

}  // namespace fi
