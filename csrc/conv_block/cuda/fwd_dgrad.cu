// Entry points of forward and dgrad. abi.cuh describes the arguments. Each function returns 0, a cudaError_t, or a
// negative Status of common/cuda_launch.cuh. None of them waits for the device or allocates.
#include "common/cuda_finish.cuh"
#include "conv_block/cuda/hopper/fwd_dgrad_plan.cuh"

namespace fi {

template <class T>
static int pack_weights(const Conv& conv, const GatherPlan& plan, void* stream) {
  const GatherParams& p = plan.params;
  PackParams pack = plan.pack;
  int64_t blocks = choose_runs(pack, plan.taps, p.k_padded);
  if (blocks >= 1ll << 31) return kTooLarge;
  FI_LAUNCH(pack_kernel<T>, int(blocks), kThreads, pack_bytes<T>(), stream, static_cast<const Map<T>*>(conv.weight),
            pack, static_cast<T*>(const_cast<void*>(p.weight)), plan.taps, p.k_padded);
  return launched();
}

template <class T, int BN>
static int launch_gather(const GatherPlan& plan, void* stream) {
  int bytes = gather_bytes<T, BN>(plan.params.patch);
  int status = allow_shared(gather_kernel<T, BN>, bytes);
  if (status) return status;
  dim3 grid(plan.tiles, plan.column_tiles);
  FI_LAUNCH((gather_kernel<T, BN>), grid, kThreads, bytes, stream, plan.params, bytes);
  return launched();
}

template <class T, int BN>
static int launch_thin(const GatherPlan& plan, void* stream) {
  int bytes = thin_bytes<T, BN>(plan.params);
  int status = allow_shared(thin_kernel<T, BN>, bytes);
  if (status) return status;
  dim3 grid(plan.tiles, plan.column_tiles);
  FI_LAUNCH((thin_kernel<T, BN>), grid, kThreads, bytes, stream, plan.params, bytes);
  return launched();
}

template <class T>
static int launch_columns(const GatherPlan& plan, void* stream) {
  if constexpr (!std::is_same<T, float>::value) {
    if (plan.thin && plan.columns == 64) return launch_thin<T, 64>(plan, stream);
  }
  if (plan.thin) return launch_thin<T, 32>(plan, stream);
  if constexpr (sizeof(T) == 2) {
    if (plan.columns == 128) return launch_gather<T, 128>(plan, stream);
  }
  if constexpr (!std::is_same<T, float>::value) {
    if (plan.columns == 64) return launch_gather<T, 64>(plan, stream);
  }
  return plan.columns == 16 ? launch_gather<T, 16>(plan, stream) : launch_gather<T, 32>(plan, stream);
}

// tf32 maps are computed exactly: products on CUDA cores are float32's.
static int launch_depthwise(const Conv& conv, const GatherPlan& plan, void* stream) {
  return with_dtype(conv.dtype == kTf32 ? int(kFloat32) : conv.dtype, [&](auto t) -> int {
    using T = decltype(t);
    int bytes = depthwise_bytes<T>(plan.params);
    int status = allow_shared(depthwise_kernel<T>, bytes);
    if (status) return status;
    dim3 grid(plan.tiles, plan.column_tiles);
    FI_LAUNCH(depthwise_kernel<T>, grid, kThreads, bytes, stream, plan.params, plan.pack,
              static_cast<const T*>(conv.weight), bytes);
    return launched();
  });
}

static int finish(const Conv& conv, const GatherPlan& plan, void* stream) {
  for (int i = 0; i < plan.params.segments; ++i) {
    const Segment& segment = plan.params.segment[i];
    if (!segment.partials.value) continue;
    int blocks = ceil_div(segment.channels, kFoldChannels);
    if (plan.params.backward) {
      FI_LAUNCH(finish_sums_kernel, blocks, kThreads, 0, stream, segment.partials, plan.tiles, segment.source.scale,
                segment.out.dmean, segment.out.dscale, segment.out.dshift);
    } else {
      FI_LAUNCH(finish_moments_kernel, blocks, kThreads, 0, stream, segment.partials, plan.tiles, conv.mean, conv.var);
    }
    if (int status = launched()) return status;
  }
  return kOk;
}

template <class T>
static int shared_bytes(const GatherPlan& plan) {
  const PatchShape& patch = plan.params.patch;
  if (plan.depthwise) return depthwise_bytes<Map<T>>(plan.params);
  if (plan.thin) return plan.columns == 64 ? thin_bytes<T, 64>(plan.params) : thin_bytes<T, 32>(plan.params);
  switch (plan.columns) {
    case 16:
      return gather_bytes<T, 16>(patch);
    case 32:
      return gather_bytes<T, 32>(patch);
    case 64:
      return gather_bytes<T, 64>(patch);
    default:
      return gather_bytes<T, 128>(patch);
  }
}

static Footprint footprint_of(const Conv& conv, const GatherPlan& plan, const StripGather& strips) {
  if (plan.hopper) return strip_gather_footprint(plan, strips);
  const GatherParams& p = plan.params;
  int64_t size = size_of(conv.dtype), positions = int64_t(p.patch.rows) * p.patch.columns;
  int64_t blocks = int64_t(plan.tiles) * plan.column_tiles, phases = p.taps.phases;
  int64_t maps = p.source[0].addend ? 2 : 1, channels = plan.thin ? 2 * p.source[0].channels : p.k_padded;
  if (plan.depthwise) channels = kChunk;
  int64_t patches = positions * plan.groups * channels * size * maps / phases * p.tiles_each;
  int64_t of_column = plan.depthwise ? 1 : p.k_padded;
  int64_t weights = int64_t(plan.thin ? 1 : p.taps.taps) * of_column * plan.columns * size / phases;
  int64_t results = int64_t(kTileRows) * plan.columns * size * (p.backward ? 2 : 1) * p.tiles_each;
  int vectors = kChunk / kVector, groups = std::max(1, plan.groups);
  Footprint result{blocks, blocks * (patches + weights + results), 0, 1, plan.columns, 0, 0};
  result.steps = ceil_div(p.taps.taps, groups);
  result.slices = ceil_div(int(positions) * vectors, kSliceVectors * kThreads);
  result.shared_bytes = with_factors(conv.dtype, [&](auto t) { return shared_bytes<decltype(t)>(plan); });
  return result;
}

// The plan of the path that will run.
static int plan_any(const Conv& conv, bool backward, GatherPlan& plan, StripGather& strips) {
  int status = plan_gather(conv, backward, plan);
  if (!status && hopper_applies(conv, plan)) plan_hopper(conv, backward, plan, strips);
  return status;
}

static int run_gather(const Conv& conv, bool backward, void* stream) {
  GatherPlan plan;
  StripGather strips;
  if (int status = plan_any(conv, backward, plan, strips)) return status;
  auto on_tensor_cores = [&](auto t) -> int {
    using T = decltype(t);
    if (int status = pack_weights<T>(conv, plan, stream)) return status;
    return launch_columns<T>(plan, stream);
  };
  int status = plan.hopper      ? fi_hopper_launch(&conv, &plan, &strips, stream)
               : plan.depthwise ? launch_depthwise(conv, plan, stream)
                                : with_factors(conv.dtype, on_tensor_cores);
  return status ? status : finish(conv, plan, stream);
}

}  // namespace fi

using namespace fi;

// Bytes of fi::Conv, so that the binding can detect a different layout.
FI_EXPORT int fi_conv_sizeof() { return int(sizeof(Conv)); }

// Bytes of workspace, or a negative Status. conv.workspace is not read.
FI_EXPORT int64_t fi_conv_workspace(const Conv* conv, int backward) {
  Conv copy = *conv;
  copy.workspace = nullptr;
  GatherPlan plan;
  StripGather strips;
  int status = plan_any(copy, backward, plan, strips);
  return status ? status : plan.workspace;
}

// Blocks, loaded bytes and shared memory of forward or dgrad.
FI_EXPORT int fi_conv_footprint(const Conv* conv, int backward, Footprint* out) {
  GatherPlan plan;
  StripGather strips;
  if (int status = plan_any(*conv, backward, plan, strips)) return status;
  *out = footprint_of(*conv, plan, strips);
  return kOk;
}

// y = conv(activation of the sources) + bias, and mean and var of y if not null.
FI_EXPORT int fi_conv_fwd(const Conv* conv, void* stream) { return run_gather(*conv, false, stream); }

// Computes the gradients of the sources whose dx is not null.
FI_EXPORT int fi_conv_dgrad(const Conv* conv, void* stream) { return run_gather(*conv, true, stream); }
