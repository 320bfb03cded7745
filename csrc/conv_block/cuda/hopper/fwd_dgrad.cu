// Packs weights and launches the wgmma path. Compiled for sm_90a only; ../fwd_dgrad.cu uses it if present.
#include "conv_block/cuda/hopper/fwd_dgrad_kernel.cuh"

namespace fi {

template <class T>
static int launch_hopper(const Conv& conv, const GatherPlan& plan, void* stream) {
  const GatherParams& p = plan.params;
  PackParams pack = plan.pack;
  std::swap(pack.k, pack.n);
  int64_t blocks = choose_runs(pack, plan.taps, padded(pack.k));
  if (blocks >= 1ll << 31) return kTooLarge;
  FI_LAUNCH(pack_hopper_kernel<T>, int(blocks), kThreads, pack_bytes<T>(), stream, static_cast<const T*>(conv.weight),
            pack, static_cast<T*>(const_cast<void*>(p.weight)), plan.taps);
  if (int status = launched()) return status;
  int bytes = hopper_bytes(p.patch);
  if (int status = allow_shared(hopper_gather_kernel<T>, bytes)) return status;
  dim3 grid(plan.tiles, plan.column_tiles);
  FI_LAUNCH(hopper_gather_kernel<T>, grid, kThreads, bytes, stream, p, hopper_patch_elements(p.patch), bytes);
  return launched();
}

}  // namespace fi

using namespace fi;

// Launches the planned forward or dgrad, without the last stage of its statistics. Returns a Status or a cudaError_t.
FI_EXPORT int fi_hopper_launch(const Conv* conv, const GatherPlan* plan, void* stream) {
  return conv->dtype == kBFloat16 ? launch_hopper<__nv_bfloat16>(*conv, *plan, stream)
                                  : launch_hopper<__half>(*conv, *plan, stream);
}
