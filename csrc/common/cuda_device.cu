// Queries of the CUDA runtime that is linked into the library.
#include "common/cuda_language.cuh"

// The newest CUDA version of the driver (0 without a driver) and that of the runtime, as 1000 * major + 10 * minor.
// Returns a cudaError_t.
FI_EXPORT int fi_cuda_versions(int* driver, int* runtime) {
  if (int status = cudaDriverGetVersion(driver)) return status;
  return cudaRuntimeGetVersion(runtime);
}

// The runtime's message for a cudaError_t.
FI_EXPORT const char* fi_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
