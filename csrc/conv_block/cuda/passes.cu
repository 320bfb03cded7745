// Whole passes of a convolution: the host calls once for all the launches of a node of the graph. abi.cuh describes the
// arguments, fwd_dgrad.cu the return values.
#include "common/cuda_launch.cuh"
#include "conv_block/cuda/abi.cuh"

namespace fi {
struct BatchNorm;  // batch_norm/kernels.cuh
}

using namespace fi;

FI_EXPORT __attribute__((weak)) int fi_conv_fwd(const Conv* conv, void* stream);
FI_EXPORT __attribute__((weak)) int fi_conv_dgrad(const Conv* conv, void* stream);
FI_EXPORT __attribute__((weak)) int fi_conv_wgrad(const Conv* conv, void* stream);
FI_EXPORT __attribute__((weak)) int fi_batch_norm_fwd(const BatchNorm* norm, void* stream);
FI_EXPORT __attribute__((weak)) int fi_batch_norm_bwd(const BatchNorm* norm, void* stream);
FI_EXPORT __attribute__((weak)) int fi_channel_sum(const Source* source, float* sum, void* workspace, int64_t rows,
                                                   int dtype, void* stream);

// fi_conv_fwd, and the batch norm of its statistics.
FI_EXPORT int fi_conv_norm_fwd(const Conv* conv, const BatchNorm* norm, void* stream) {
  int status = fi_conv_fwd(conv, stream);
  return status ? status : fi_batch_norm_fwd(norm, stream);
}

// The backward of norm, if not null, which computes the scale of conv->gradient. Then the gradients of the sources whose
// dx is not null, dweight if not null, and dbias [C_out], the sum of G, if not null. All share conv->workspace, so it
// has the most bytes that any of them needs. wgrad comes after dgrad, whose strips of G it reads.
FI_EXPORT int fi_conv_bwd(const Conv* conv, const BatchNorm* norm, float* dbias, void* stream) {
  int status = norm ? fi_batch_norm_bwd(norm, stream) : kOk;
  bool dgrad = conv->source_gradient[0].dx || conv->source_gradient[1].dx;
  if (!status && dgrad) status = fi_conv_dgrad(conv, stream);
  if (!status && conv->dweight) status = fi_conv_wgrad(conv, stream);
  if (status || !dbias) return status;
  int64_t rows = int64_t(conv->batch) * conv->out[0] * conv->out[1] * conv->out[2];
  int dtype = conv->dtype == kTf32 ? int(kFloat32) : conv->dtype;
  return fi_channel_sum(&conv->gradient, dbias, conv->workspace, rows, dtype, stream);
}
