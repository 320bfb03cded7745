// Launches wgrad on wgmma. Compiled for sm_90a only; ../wgrad.cu uses it if present.
#include "conv_block/cuda/hopper/wgrad_kernel.cuh"

namespace fi {

template <class T>
static int launch_wgmma_wgrad(const WgradParams& params, int grid_x, void* stream) {
  int bytes = wgmma_wgrad_bytes(params.p.patch);
  if (int status = allow_shared(hopper_wgrad_kernel<T>, bytes)) return status;
  dim3 grid(grid_x, params.splits);
  FI_LAUNCH(hopper_wgrad_kernel<T>, grid, kWgmmaWgradThreads, bytes, stream, params, bytes);
  return launched();
}

}  // namespace fi

using namespace fi;

FI_EXPORT int fi_hopper_wgrad_launch(int dtype, const WgradParams* params, int grid_x, void* stream) {
  return dtype == kBFloat16 ? launch_wgmma_wgrad<__nv_bfloat16>(*params, grid_x, stream)
                            : launch_wgmma_wgrad<__half>(*params, grid_x, stream);
}
