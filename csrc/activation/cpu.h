// Kernels of `activation` on the CPU: arguments, and the entry of each instruction set.
//
// Maps are channels-last, `[pixels, C]`. `D` below is the storage type: float, double or
// Bf16; vectors are float, double where D is double. Sums are double.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace fi {

enum class Dtype { float32, float64, bfloat16 };

// One deferred activation: a = act(z) + addend, z = (x - mean) * scale + shift (z = x where mean is null). `relu` is 0
// for none, 1 for ReLU. The direct convolutions also take the other codes: the `fi::Act` in the low 8 bits, the bits of
// its float parameter in the next 32.
struct Source {
  const void* x;     // D [pixels, channels], dense
  const void* mean;  // [channels], or null with scale and shift
  const void* scale;
  const void* shift;
  const void* addend;  // D [pixels, channels], dense, or null
  int64_t channels;
  int64_t relu;
};

// a[p, offset + c] of one source, for pixels begin <= p < end; a has `stride` channels.
struct ActivationFwd {
  Source source;
  void* a;
  int64_t stride, offset;
};

// Given da: dz = da * 1[z > 0], dx = dz * scale, and over each block of pixels sum dz, sum dz * (x - mean).
struct ActivationBwd {
  Source source;
  const void* da;  // D, rows `stride` apart, this source's channels from `offset` on
  int64_t stride, offset;
  void* dx;      // D [pixels, channels], or null
  double* sums;  // [blocks, 2, channels], or null
};

// Per block of pixels and channel: an offset, the block's first value, and the sums of y - offset and its square.
struct BatchStats {
  const void* y;  // D [pixels, channels]
  int64_t channels;
  double* partial;  // [blocks, 3, channels]
};

FI_DECLARE_EACH_ISA(void activation_fwd(const ActivationFwd&, Dtype, int64_t begin, int64_t end))
FI_DECLARE_EACH_ISA(void activation_bwd(const ActivationBwd&, Dtype, int64_t block, int64_t begin, int64_t end))
FI_DECLARE_EACH_ISA(void batch_stats(const BatchStats&, Dtype, int64_t block, int64_t begin, int64_t end))

}  // namespace fi
