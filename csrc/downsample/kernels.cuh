// downsample: holes filled with the mean pixel, then the mean of every r x r square; its mask is the largest of the
// square's. Where r does not divide the frame, the last row and column go on.
#pragma once
#include "common/cuda_reduce.cuh"

namespace fi {

struct Downsample {
  int samples, channels, frames, height, width, r;
  int64_t stride[5], mask_stride[5];  // of video and mask, along N, C, T, H, W, in elements
};

// One thread a small pixel: video (any strides) -> small [N][T][h][w][C], mask -> small_mask [N][T][h][w].
template <class T>
__global__ void __launch_bounds__(kThreads)
    downsample_kernel(const T* video, const T* mask, const float* mean_pixel, const __grid_constant__ Downsample p,
                      T* small, T* small_mask) {
  int height = ceil_div(p.height, p.r), width = ceil_div(p.width, p.r);
  int64_t total = int64_t(p.samples) * p.frames * height * width;
  int64_t pixel = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= total) return;
  int w = int(pixel % width) * p.r, h = int(pixel / width % height) * p.r;
  int64_t frame = pixel / width / height, t = frame % p.frames, n = frame / p.frames;
  const T* masks = mask + n * p.mask_stride[0] + t * p.mask_stride[2];
  auto mask_at = [&](int i) {
    int y = min(h + i / p.r, p.height - 1), x = min(w + i % p.r, p.width - 1);
    return to_float(masks[y * p.mask_stride[3] + x * p.mask_stride[4]]);
  };
  float most = mask_at(0);
  for (int i = 1; i < p.r * p.r; ++i) most = fmaxf(most, mask_at(i));
  small_mask[pixel] = from_float<T>(most);
  for (int c = 0; c < p.channels; ++c) {
    const T* plane = video + n * p.stride[0] + c * p.stride[1] + t * p.stride[2];
    float sum = 0;
    for (int i = 0; i < p.r * p.r; ++i) {
      int y = min(h + i / p.r, p.height - 1), x = min(w + i % p.r, p.width - 1);
      sum += mask_at(i) > 0 ? mean_pixel[c] : to_float(plane[y * p.stride[3] + x * p.stride[4]]);
    }
    small[pixel * p.channels + c] = from_float<T>(sum / float(p.r * p.r));
  }
}

}  // namespace fi
