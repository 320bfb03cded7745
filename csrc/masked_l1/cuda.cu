// Entry points of masked_l1. output and target are dense, channels innermost (per_mask = C, length = H * W * C) or
// planar (per_mask = 1, length = H * W); the mask is dense [N][T][H][W]; all three have one dtype.
#include "common/cuda_launch.cuh"
#include "common/cuda_source.cuh"
#include "masked_l1/kernels.cuh"

namespace fi {

static int frame_count(const Slices& s) { return s.samples * s.frames; }

static int group_total(const Slices& s) { return s.per_frame ? s.samples * s.frames : s.samples; }

static bool is_whole(const Slices& s, const void* a, const void* b, const void* c, const void* mask) {
  return s.length % kVector == 0 && is_aligned(a) && is_aligned(b) && is_aligned(c) && is_aligned(mask);
}

// Sums of every group, behind the partials in the workspace.
template <class T>
static int sum_groups(const void* output, const void* target, const void* mask, const Slices& s, void* workspace,
                      float2** group, void* stream) {
  float2* partial = static_cast<float2*>(workspace);
  *group = partial + int64_t(frame_count(s)) * s.splits;
  FI_LAUNCH(masked_l1_sum_kernel<T>, dim3(frame_count(s), s.splits), kThreads, shared_part(kThreads * 8), stream,
            static_cast<const T*>(output), static_cast<const T*>(target), static_cast<const T*>(mask), s,
            is_whole(s, output, target, nullptr, mask), partial);
  if (int status = launched()) return status;
  FI_LAUNCH(masked_l1_group_kernel, group_total(s), 32, 0, stream, partial, s, *group);
  return launched();
}

// Sixteen vectors to a thread: few partials, and still enough blocks for one video.
static Slices with_splits(const Slices& given) {
  Slices s = given;
  s.splits = ceil_div(s.length * plane_count(s), kThreads * kVector * 16);
  return s;
}

}  // namespace fi

using namespace fi;

FI_EXPORT int64_t fi_masked_l1_workspace(const Slices* slices) {
  Slices s = with_splits(*slices);
  return (int64_t(frame_count(s)) * s.splits + group_total(s)) * int64_t(sizeof(float2));
}

FI_EXPORT int fi_masked_l1_fwd(const void* output, const void* target, const void* mask, const Slices* slices,
                               float* loss, void* workspace, int dtype, void* stream) {
  Slices s = with_splits(*slices);
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    float2* group;
    if (int status = sum_groups<T>(output, target, mask, s, workspace, &group, stream)) return status;
    FI_LAUNCH(masked_l1_loss_kernel, 1, 1, 0, stream, group, s, loss);
    return launched();
  });
}

FI_EXPORT int fi_masked_l1_bwd(const float* dloss, const void* output, const void* target, const void* mask,
                               const Slices* slices, void* doutput, void* workspace, int dtype, void* stream) {
  Slices s = with_splits(*slices);
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    float2* group;
    if (int status = sum_groups<T>(nullptr, nullptr, mask, s, workspace, &group, stream)) return status;
    FI_LAUNCH(masked_l1_bwd_kernel<T>, dim3(frame_count(s), s.splits), kThreads, 0, stream, dloss,
              static_cast<const T*>(output), static_cast<const T*>(target), static_cast<const T*>(mask), group, s,
              is_whole(s, output, target, doutput, mask), static_cast<T*>(doutput));
    return launched();
  });
}
