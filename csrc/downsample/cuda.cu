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
    FI_LAUNCH(downsample_kernel<T>, ceil_div(int(total), kThreads), kThreads, 0, stream, static_cast<const T*>(video),
              static_cast<const T*>(mask), mean_pixel, *p, static_cast<T*>(small), static_cast<T*>(small_mask));
    return launched();
  });
}
