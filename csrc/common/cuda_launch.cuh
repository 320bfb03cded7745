// Shared by all launch functions: dtypes, error codes and the number of blocks.
#pragma once
#include "cuda_vector.cuh"

namespace fi {

enum Dtype { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kTf32 = 3 };         // tf32: float32 maps, products in tf32
enum Status { kOk = 0, kBadDtype = -1, kBadGeometry = -2, kTooLarge = -3 };  // positive: a cudaError_t

inline cudaError_t launched() { return cudaGetLastError(); }

// Calls f(T()) with the type of dtype. Only convolutions support tf32.
template <class F>
int with_dtype(int dtype, F f) {
  switch (dtype) {
    case kFloat32:
      return f(float());
    case kBFloat16:
      return f(__nv_bfloat16());
    case kFloat16:
      return f(__half());
    default:
      return kBadDtype;
  }
}

// Launches with more dynamic shared memory than the default limit of 48 KiB.
template <class K>
int allow_shared(K kernel, int bytes) {
  if (bytes <= 48 << 10) return kOk;
  return static_cast<int>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace fi
