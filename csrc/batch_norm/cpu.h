// Arguments of batch norm on the CPU; see cpu.cpp. Vectors are [channels].
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace fi {

struct BatchNormFwd {
  const void *mean, *var;
  const void *weight, *bias;            // or null
  void *running_mean, *running_var;     // in place, or null
  int64_t* tracked;                     // counted up, or null
  void *scale, *shift;
  int64_t channels, is_double;
  double correction, momentum, eps;
};

struct BatchNormBwd {
  const void *dmean, *dscale;           // or null: zeros
  const void *scale, *var;
  void *by_y, *constant;
  void* dweight;                        // or null
  int64_t channels, is_double;
  double values, eps;                   // M, and what was added to var
};

}  // namespace fi

FI_EXPORT int fi_cpu_batch_norm_fwd(const fi::BatchNormFwd* p);
FI_EXPORT int fi_cpu_batch_norm_bwd(const fi::BatchNormBwd* p);
