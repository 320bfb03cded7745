// Writes strips, packs weights and launches the wgmma path. Compiled for sm_90a only; ../fwd_dgrad.cu and ../wgrad.cu
// use it if present.
#include "conv_block/cuda/hopper/fwd_dgrad_kernel.cuh"
#include "conv_block/cuda/hopper/wgrad_kernel.cuh"

namespace fi {

template <class T, int kEach>
static int launch_strip_gather(const GatherPlan& plan, const StripGather& g, void* stream) {
  int bytes = g.shared_bytes();
  if (int status = allow_shared(hopper_gather_kernel<T, kEach>, bytes)) return status;
  dim3 grid(g.phase_blocks * plan.params.taps.phases, plan.column_tiles);
  FI_LAUNCH((hopper_gather_kernel<T, kEach>), grid, kHopperThreads, bytes, stream, plan.params, g, bytes);
  return launched();
}

template <class T>
static int launch_hopper(const Conv& conv, const GatherPlan& plan, const StripGather& g, void* stream) {
  const GatherParams& p = plan.params;
  PackParams pack = plan.pack;
  std::swap(pack.k, pack.n);
  int64_t blocks = choose_runs(pack, plan.taps, padded(pack.k));
  if (blocks >= 1ll << 31) return kTooLarge;
  FI_LAUNCH(pack_hopper_kernel<T>, int(blocks), kThreads, pack_bytes<T>(), stream, static_cast<const T*>(conv.weight),
            pack, static_cast<T*>(const_cast<void*>(p.weight)), plan.taps, g.columns());
  if (int status = launched()) return status;
  if (int status = write_strips<T>(g.strips, stream)) return status;
  return g.each == 1 ? launch_strip_gather<T, 1>(plan, g, stream) : launch_strip_gather<T, 2>(plan, g, stream);
}

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

// Launches the planned forward or dgrad, without the last stage of its statistics. Returns a Status or a cudaError_t.
FI_EXPORT int fi_hopper_launch(const Conv* conv, const GatherPlan* plan, const StripGather* gather, void* stream) {
  return conv->dtype == kBFloat16 ? launch_hopper<__nv_bfloat16>(*conv, *plan, *gather, stream)
                                  : launch_hopper<__half>(*conv, *plan, *gather, stream);
}

// Launches the planned wgrad, without the sums of its splits.
FI_EXPORT int fi_hopper_wgrad_launch(int dtype, const StripWgrad* w, void* stream) {
  return dtype == kBFloat16 ? launch_strip_wgrad<__nv_bfloat16>(*w, stream) : launch_strip_wgrad<__half>(*w, stream);
}
