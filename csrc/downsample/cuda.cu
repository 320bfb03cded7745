// Entry point of downsample; see kernels.cuh for the arguments.
#include "common/cuda_launch.cuh"
#include "downsample/kernels.cuh"

using namespace fi;

FI_EXPORT int fi_downsample_fwd(const void* video, const void* mask, const float* mean_pixel, const Downsample* p,
                                void* small, void* small_mask, int dtype, void* stream) {
  int64_t total = int64_t(p->samples) * p->frames * ceil_div(p->height, p->r) * ceil_div(p->width, p->r);
  if (total >= 1ll << 31) return kTooLarge;
  return with_dtype(dtype, [&](auto t) -> int {
    using T = decltype(t);
    const T *from = static_cast<const T*>(video), *masks = static_cast<const T*>(mask);
    T *to = static_cast<T*>(small), *to_mask = static_cast<T*>(small_mask);
    int blocks = ceil_div(int(total), kThreads), wide_blocks = ceil_div(int(total), kThreads * kVector);
    if (!takes_vectors(*p, video, mask, small, small_mask)) {
      FI_LAUNCH(downsample_kernel<T>, blocks, kThreads, 0, stream, from, masks, mean_pixel, *p, to, to_mask);
    } else if (p->stride[4] == 1) {
      FI_LAUNCH((downsample_vectors_kernel<T, true>), wide_blocks, kThreads, 0, stream, from, masks, mean_pixel, *p, to,
                to_mask);
    } else {
      FI_LAUNCH((downsample_vectors_kernel<T, false>), wide_blocks, kThreads, 0, stream, from, masks, mean_pixel, *p,
                to, to_mask);
    }
    return launched();
  });
}
