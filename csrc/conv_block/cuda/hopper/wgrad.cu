// Launches wgrad on wgmma. Compiled for sm_90a only; ../wgrad.cu uses it if present.
#include "conv_block/cuda/hopper/wgrad_kernel.cuh"

namespace fi {

template <class T, int kTaps>
static int launch_wgrad(const StripWgrad& w, void* stream) {
  int bytes = w.shared_bytes();
  if (int status = allow_shared(hopper_wgrad_kernel<T, kTaps>, bytes)) return status;
  dim3 grid(ceil_div(w.units, kConsumers) * w.q_tiles, w.splits);
  FI_LAUNCH((hopper_wgrad_kernel<T, kTaps>), grid, kHopperThreads, bytes, stream, w, bytes);
  return launched();
}

template <class T>
static int launch_strip_wgrad(const StripWgrad& w, void* stream) {
  int status = w.rows_given ? kOk : write_strips<T>(w.rows, stream);
  if (!status && !w.columns_given) status = write_strips<T>(w.columns, stream);
  if (status) return status;
  switch (w.taps.most) {
    case 1:
      return launch_wgrad<T, 1>(w, stream);
    case 2:
      return launch_wgrad<T, 2>(w, stream);
    default:
      return launch_wgrad<T, 3>(w, stream);
  }
}

}  // namespace fi

using namespace fi;

FI_EXPORT int fi_hopper_wgrad_launch(int dtype, const StripWgrad* w, void* stream) {
  return dtype == kBFloat16 ? launch_strip_wgrad<__nv_bfloat16>(*w, stream) : launch_strip_wgrad<__half>(*w, stream);
}
