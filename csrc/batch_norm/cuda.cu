// Entry points of batch_norm: one small launch forward, one backward; see kernels.cuh for the arguments.
#include "batch_norm/kernels.cuh"

using namespace fi;

FI_EXPORT int fi_batch_norm_fwd(const BatchNorm* p, void* stream) {
  FI_LAUNCH(batch_norm_fwd_kernel, 1, kChannels, 0, stream, *p);
  return launched();
}

FI_EXPORT int fi_batch_norm_bwd(const BatchNorm* p, void* stream) {
  FI_LAUNCH(batch_norm_bwd_kernel, ceil_div(p->channels, kChannels), kChannels, 0, stream, *p);
  return launched();
}
