// The convolution's arguments in the C ABI. fastinpaint/ops/conv_block/cuda/abi.py has the same structure in ctypes.
//
// Axes are T, H, W. A 2D convolution has T = 1 and its frames in the batch. Maps are [N][T][H][W][C]. The caller owns
// all buffers. A workspace has fi_conv_*_workspace bytes, 16-byte aligned, uninitialised.
#pragma once
#include "common/cuda_source.cuh"

namespace fi {

struct SourceGradient {  // all null if the source needs none
  void* dx;
  void* daddend;
  float* dmean;  // with dscale and dshift, or null
  float* dscale;
  float* dshift;
};

struct Conv {
  int dtype, transposed, batch, sources;
  int in[3], out[3];  // sizes of the sources and of y
  int kernel[3], stride[3], padding[3], dilation[3];
  int out_channels;
  int groups;                         // input channels of a group meet output channels of the same group only
  int shared_limit;                   // most bytes of shared memory per block
  int hopper;                         // the wgmma path: 0 never, 1 where it should be faster, 2 wherever it can run
  Source source[2];                   // concatenated over channels
  Source gradient;                    // G, with out_channels channels (backward)
  const void* weight;                 // in the maps' dtype
  int64_t weight_stride[5];           // of C_out, C_in, kT, kH, kW, in elements
  const void* bias;                   // [C_out] or null (forward)
  void* y;                            // forward
  float *mean, *var;                  // [C_out] or null (forward)
  SourceGradient source_gradient[2];  // dgrad
  void* dweight;                      // wgrad; contiguous
  void* workspace;
};

inline int in_channels(const Conv& conv) {
  return conv.source[0].channels + (conv.sources > 1 ? conv.source[1].channels : 0);
}

// Each channel has a filter of its own.
inline bool is_depthwise(const Conv& conv) {
  return conv.groups > 1 && in_channels(conv) == conv.groups && conv.out_channels == conv.groups;
}

}  // namespace fi
