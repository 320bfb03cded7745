// Kernels of `norm_act` on the CPU: arguments, and the entry of each instruction set.
//
//     z = (x - mean) * scale + shift + addend,   a = act(z)
//
// Maps are channels-last, `[pixels, C]`; one call of a kernel takes a block of pixels of one sample. `D` below is the
// storage type: float, double or Bf16; vectors, `A`, are float, double where D is double. Sums are double.
#pragma once

#include <cstdint>

#include "activation/cpu.h"
#include "common/cpu_isa.h"

namespace fi {

// The order of `fastinpaint.ops.norm_act.types.ACTS`.
enum class Act : int64_t {
  none,
  relu,
  relu6,
  leaky_relu,
  elu,
  silu,
  hardswish,
  hardsigmoid,
  sigmoid,
  tanh,
  gelu,
  gelu_tanh,
  softplus,
  mish,
  prelu
};

struct NormAct {
  const void* x;                     // D [pixels, channels]
  const void* addend;                // D [pixels, channels] or null
  const void *mean, *scale, *shift;  // A [channels]
  int64_t channels;
  Act act;
  double parameter;   // slope, alpha or beta
  const void* slope;  // A [channels] or null: of prelu
};

// a[p, offset + c] of pixels begin <= p < end; a has `stride` channels.
struct NormActFwd {
  NormAct form;
  void* a;
  int64_t stride, offset;
  bool past_caches;  // whether a is written so
};

// dz = da * act'(z), and over each block of pixels sum dz, sum dz * (x - mean) and, of prelu, sum da * min(z, 0). The
// kernel of the sums writes daddend too, or dx = by_dz * dz, if one of them is given; that of dx writes both.
struct NormActBwd {
  NormAct form;
  const void* da;   // D, rows `stride` apart, this map's channels from `offset` on
  const void* out;  // D [pixels, channels]: a, in whose place z is not computed; or null
  int64_t stride, offset;
  void* daddend;                        // D [pixels, channels] or null: dz
  void* dx;                             // D [pixels, channels] or null: by_dz * dz + by_x * (x - mean) + constant
  const void *by_dz, *by_x, *constant;  // A [channels]
  double* sums;                         // [2, channels] of the block, [3, channels] of prelu; or null
  bool past_caches;                     // whether dx is written so
};

FI_DECLARE_EACH_ISA(void norm_act_fwd(const NormActFwd&, Dtype, int64_t begin, int64_t end))
FI_DECLARE_EACH_ISA(void norm_act_sums(const NormActBwd&, Dtype, int64_t begin, int64_t end))
FI_DECLARE_EACH_ISA(void norm_act_apply(const NormActBwd&, Dtype, int64_t begin, int64_t end))

}  // namespace fi
