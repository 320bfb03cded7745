// Entry points of the elementwise kernels. Maps are [rows][channels], rows = N * T * H * W. workspace has
// fi_channel_workspace(rows, channels) bytes, 16-byte aligned, uninitialised. Each function returns 0, a cudaError_t,
// or a negative Status of common/cuda_launch.cuh.
#include "activation/kernels.cuh"
#include "common/cuda_finish.cuh"
#include "common/cuda_launch.cuh"

namespace fi {

// Rows per block. Large maps get 8 rows per thread, so that parameters and folds cost little. Reductions have at most
// 2048 blocks, so that the second stage has fewer than 64 partials per thread.
static Columns make_columns(int64_t rows, int channels, bool reduces) {
  Columns columns{int(rows), 0, 1};
  while (columns.groups < 32 && columns.groups * kVector < channels) columns.groups *= 2;
  int64_t lanes = kThreads / columns.groups, least = lanes * 8;
  columns.rows_each = int(reduces ? std::max<int64_t>(least, (rows + 2047) / 2048) : least);
  return columns;
}

static dim3 grid_of(const Columns& columns, int channels) {
  return dim3(ceil_div(columns.rows, columns.rows_each), ceil_div(channels, columns.groups * kVector));
}

static Partials partials_in(void* workspace, const Columns& columns, int channels) {
  size_t blocks = ceil_div(columns.rows, columns.rows_each);
  float4* value = static_cast<float4*>(workspace);
  return {value, reinterpret_cast<float*>(value + blocks * channels), channels};
}

static int finish_grid(int channels) { return ceil_div(channels, kFoldChannels); }

}  // namespace fi

using namespace fi;

FI_EXPORT int64_t fi_channel_workspace(int64_t rows, int channels) {
  int64_t each = make_columns(rows, channels, true).rows_each, blocks = (rows + each - 1) / each;
  return blocks * (int64_t(channels) * sizeof(float4) + sizeof(float)) + 16;
}

FI_EXPORT int fi_activation_fwd(const Source* source, void* a, int stride, int64_t rows, int dtype, void* stream) {
  if (rows >= 1ll << 31) return kTooLarge;
  Columns columns = make_columns(rows, source->channels, false);
  bool aligned = vectors_aligned(*source) && is_aligned(a) && stride % kVector == 0;
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    FI_LAUNCH(activation_fwd_kernel<T>, grid_of(columns, source->channels), kThreads, 0, stream, *source,
              static_cast<T*>(a), stride, columns, aligned);
    return launched();
  });
}

// dmean, dscale and dshift may be null together (a source without statistics). dx may be null.
FI_EXPORT int fi_activation_bwd(const void* da, int stride, const Source* source, void* dx, float* dmean, float* dscale,
                                float* dshift, void* workspace, int64_t rows, int dtype, void* stream) {
  if (rows >= 1ll << 31) return kTooLarge;
  Columns columns = make_columns(rows, source->channels, true);
  Partials sums = partials_in(workspace, columns, source->channels);
  if (!dscale) sums.value = nullptr;
  bool aligned = vectors_aligned(*source) && is_aligned(da) && is_aligned(dx) && stride % kVector == 0;
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    dim3 grid = grid_of(columns, source->channels);
    FI_LAUNCH(activation_bwd_kernel<T>, grid, kThreads, fold_bytes(), stream, static_cast<const T*>(da), stride,
              *source, static_cast<T*>(dx), columns, aligned, sums);
    int status = launched();
    if (status || !dscale) return status;
    FI_LAUNCH(finish_sums_kernel, finish_grid(source->channels), kThreads, 0, stream, sums, int(grid.x), source->scale,
              dmean, dscale, dshift);
    return launched();
  });
}

FI_EXPORT int fi_batch_stats(const void* x, float* mean, float* var, void* workspace, int64_t rows, int channels,
                             int dtype, void* stream) {
  if (rows >= 1ll << 31) return kTooLarge;
  Columns columns = make_columns(rows, channels, true);
  Partials partials = partials_in(workspace, columns, channels);
  bool aligned = channels % kVector == 0 && is_aligned(x);
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    dim3 grid = grid_of(columns, channels);
    FI_LAUNCH(batch_stats_kernel<T>, grid, kThreads, fold_bytes(), stream, static_cast<const T*>(x), channels, columns,
              aligned, partials);
    int status = launched();
    if (status) return status;
    FI_LAUNCH(finish_moments_kernel, finish_grid(channels), kThreads, 0, stream, partials, int(grid.x), mean, var);
    return launched();
  });
}

FI_EXPORT int fi_channel_sum(const Source* source, float* sum, void* workspace, int64_t rows, int dtype, void* stream) {
  if (rows >= 1ll << 31) return kTooLarge;
  Columns columns = make_columns(rows, source->channels, true);
  Partials partials = partials_in(workspace, columns, source->channels);
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    dim3 grid = grid_of(columns, source->channels);
    FI_LAUNCH(channel_sum_kernel<T>, grid, kThreads, fold_bytes(), stream, *source, columns, vectors_aligned(*source),
              partials);
    int status = launched();
    if (status) return status;
    FI_LAUNCH(finish_sums_kernel, finish_grid(source->channels), kThreads, 0, stream, partials, int(grid.x), nullptr,
              nullptr, nullptr, sum);
    return launched();
  });
}
