// Entry points of wgrad, and of whole passes: the host calls once for all the launches of a node of the graph. abi.cuh
// describes the arguments, fwd_dgrad.cu the return values.
#include "conv_block/cuda/plan/wgrad_plan.cuh"

namespace fi {

struct BatchNorm;  // batch_norm/kernels.cuh

template <class T, int BN, bool thin>
static int launch_wgrad(const WgradPlan& plan, void* stream) {
  int bytes = block_bytes<T, BN, thin>(plan);
  int status = allow_shared(wgrad_kernel<T, BN, thin>, bytes);
  if (status) return status;
  dim3 grid(plan.row_blocks * plan.column_tiles, plan.params.splits);
  FI_LAUNCH((wgrad_kernel<T, BN, thin>), grid, dim3(kThreads, plan.groups), bytes, stream, plan.params,
            wgrad_bytes<T, BN, thin>(plan.params.p));
  return launched();
}

template <class T, bool thin>
static int launch_columns(const WgradPlan& plan, void* stream) {
  if constexpr (sizeof(T) == 2 || (thin && std::is_same<T, Tf32>::value)) {
    if (plan.columns == 64) return launch_wgrad<T, 64, thin>(plan, stream);
  }
  return launch_wgrad<T, 32, thin>(plan, stream);
}

// tf32 maps are multiplied exactly, as in launch_depthwise of fwd_dgrad.cu.
static int launch_depthwise(const Conv& conv, const WgradPlan& plan, void* stream) {
  return with_dtype(conv.dtype == kTf32 ? int(kFloat32) : conv.dtype, [&](auto t) -> int {
    using T = decltype(t);
    int bytes = depthwise_wgrad_bytes<T>(plan.params);
    int status = allow_shared(depthwise_wgrad_kernel<T>, bytes);
    if (status) return status;
    dim3 grid(plan.row_blocks, plan.params.splits);
    FI_LAUNCH(depthwise_wgrad_kernel<T>, grid, kThreads, bytes, stream, plan.params, bytes);
    return launched();
  });
}

template <class T>
static int launch_reduce(const Conv& conv, const WgradPlan& plan, void* stream) {
  T* dweight = static_cast<T*>(conv.dweight);
  if (conv.groups > 1) {
    const ReduceGroups& reduce = plan.reduce_groups;
    int64_t blocks = (int64_t(reduce.taps) * reduce.p_channels * reduce.group.k + kReduceValues - 1) / kReduceValues;
    if (blocks >= 1ll << 31) return kTooLarge;
    FI_LAUNCH(reduce_groups_kernel<T>, int(blocks), kThreads, reduce_groups_bytes(), stream, plan.params.partial,
              reduce, dweight);
    return launched();
  }
  const ReduceParams& reduce = plan.reduce;
  int64_t panels =
      int64_t(ceil_div(reduce.taps * reduce.p_channels, reduce.rows)) * ceil_div(reduce.q_channels, 4 * reduce.vectors);
  if (panels >= 1ll << 31) return kTooLarge;
  FI_LAUNCH(reduce_kernel<T>, int(panels), kThreads, reduce_bytes(reduce), stream,
            plan.hopper ? plan.strips.partial : plan.params.partial, reduce, dweight);
  return launched();
}

}  // namespace fi

using namespace fi;

// Bytes of workspace, or a negative Status. conv.workspace is not read.
FI_EXPORT int64_t fi_conv_wgrad_workspace(const Conv* conv) {
  Conv copy = *conv;
  copy.workspace = nullptr;
  WgradPlan plan;
  int status = plan_wgrad(copy, plan);
  return status ? status : plan.workspace;
}

// Blocks, loaded bytes (including partials) and shared memory of wgrad.
FI_EXPORT int fi_conv_wgrad_footprint(const Conv* conv, Footprint* out) {
  WgradPlan plan;
  if (int status = plan_wgrad(*conv, plan)) return status;
  if (plan.hopper) {
    *out = strip_wgrad_footprint(plan.strips);
    return kOk;
  }
  int64_t blocks = int64_t(plan.row_blocks) * plan.column_tiles * plan.params.splits;
  const WgradParams& w = plan.params;
  int each = kSliceVectors * kThreads, positions = w.p.patch.rows * w.p.patch.columns;
  int64_t slices =
      ceil_div(positions * (plan.channels / kVector), each) + ceil_div(kTileRows * (plan.columns / kVector), each);
  int64_t shared = plan.depthwise ? depthwise_wgrad_bytes(*conv, w) : block_bytes(*conv, plan);
  *out = {blocks, bytes_asked(*conv, plan), shared, plan.groups, plan.columns, kTileRows / 16, slices};
  return kOk;
}

// Computes dweight from the sources and the gradient. If conv asks for a dx, fi_conv_dgrad has run before with the same
// workspace, and G's strips are read from there.
FI_EXPORT int fi_conv_wgrad(const Conv* conv, void* stream) {
  WgradPlan plan;
  if (int status = plan_wgrad(*conv, plan)) return status;
  return with_factors(conv->dtype, [&](auto t) -> int {
    using T = decltype(t);
    int status = plan.hopper      ? fi_hopper_wgrad_launch(conv->dtype, &plan.strips, stream)
                 : plan.depthwise ? launch_depthwise(*conv, plan, stream)
                 : plan.thin      ? launch_columns<T, true>(plan, stream)
                                  : launch_columns<T, false>(plan, stream);
    return status ? status : launch_reduce<Map<T>>(*conv, plan, stream);
  });
}

// Of other units, which tests may leave out.
FI_EXPORT __attribute__((weak)) int fi_conv_fwd(const Conv* conv, void* stream);
FI_EXPORT __attribute__((weak)) int fi_conv_dgrad(const Conv* conv, void* stream);
FI_EXPORT __attribute__((weak)) int fi_batch_norm_fwd(const BatchNorm* norm, void* stream);
FI_EXPORT __attribute__((weak)) int fi_batch_norm_bwd(const BatchNorm* norm, void* stream);
FI_EXPORT __attribute__((weak)) int fi_channel_sum(const Source* source, float* sum, void* workspace, int64_t rows,
                                                   int dtype, void* stream);

// fi_conv_fwd, and the batch norm of its statistics.
FI_EXPORT int fi_conv_norm_fwd(const Conv* conv, const BatchNorm* norm, void* stream) {
  int status = fi_conv_fwd(conv, stream);
  return status ? status : fi_batch_norm_fwd(norm, stream);
}

// The backward of norm, if not null, which computes the scale of conv->gradient. Then the gradients of the sources
// whose dx is not null, dweight if not null, and dbias [C_out], the sum of G, if not null. All share conv->workspace,
// so it has the most bytes that any of them needs. wgrad comes after dgrad, whose strips of G it reads.
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
