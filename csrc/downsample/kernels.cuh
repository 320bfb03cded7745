// downsample: holes filled with the mean pixel, then the mean of every r x r square; its mask is the largest of the
// square's. Where r does not divide the frame, the last row and column go on.
#pragma once
#include "common/cuda_reduce.cuh"
#include "common/cuda_source.cuh"

namespace fi {

struct Downsample {
  int samples, channels, frames, height, width, r;
  int64_t stride[5], mask_stride[5];  // of video and mask, along N, C, T, H, W, in elements
};

// A small pixel and where its square begins.
struct Square {
  int64_t n, t;
  int h, w;
};

// pixel: counted in 32 bits, whose divisions are short.
__device__ inline Square find_square(const Downsample& p, int pixel) {
  int height = ceil_div(p.height, p.r), width = ceil_div(p.width, p.r);
  int frame = pixel / width / height;
  return {frame / p.frames, frame % p.frames, pixel / width % height * p.r, pixel % width * p.r};
}

constexpr int kColors = 3;

// One thread a small pixel: video (any strides) -> small [N][T][h][w][C], mask -> small_mask [N][T][h][w]. Each value
// of the mask is read once for three channels. Eight blocks an SM are enough: left alone, nvcc spills to fit more.
template <class T>
__global__ void __launch_bounds__(kThreads, 8)
    downsample_kernel(const T* video, const T* mask, const float* mean_pixel, const __grid_constant__ Downsample p,
                      T* small, T* small_mask) {
  int64_t total = int64_t(p.samples) * p.frames * ceil_div(p.height, p.r) * ceil_div(p.width, p.r);
  int64_t pixel = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= total) return;
  Square at = find_square(p, int(pixel));
  const T* masks = mask + at.n * p.mask_stride[0] + at.t * p.mask_stride[2];
  for (int first = 0; first < p.channels; first += kColors) {
    const T* plane = video + at.n * p.stride[0] + first * p.stride[1] + at.t * p.stride[2];
    int colors = min(kColors, p.channels - first);
    float sum[kColors] = {}, fill[kColors] = {}, most = 0;
#pragma unroll
    for (int c = 0; c < kColors; ++c)
      if (c < colors) fill[c] = mean_pixel[first + c];
    for (int row = 0; row < p.r; ++row) {
      int y = min(at.h + row, p.height - 1);
      for (int column = 0; column < p.r; ++column) {
        int x = min(at.w + column, p.width - 1);
        float hole = to_float(masks[y * p.mask_stride[3] + x * p.mask_stride[4]]);
        most = row + column > 0 ? fmaxf(most, hole) : hole;
        const T* from = plane + y * p.stride[3] + x * p.stride[4];
#pragma unroll
        for (int c = 0; c < kColors; ++c)
          if (c < colors) sum[c] += hole > 0 ? fill[c] : to_float(from[c * p.stride[1]]);
      }
    }
    if (first == 0) small_mask[pixel] = from_float<T>(most);
#pragma unroll
    for (int c = 0; c < kColors; ++c)
      if (c < colors) small[pixel * p.channels + first + c] = from_float<T>(sum[c] / float(p.r * p.r));
  }
}

// Where a thread may take eight small pixels and only whole vectors: three colours, planar or interleaved, r = 2.
inline bool takes_vectors(const Downsample& p, const void* video, const void* mask, void* small, void* small_mask) {
  bool planar = p.stride[4] == 1, interleaved = p.stride[4] == kColors && p.stride[1] == 1;
  bool whole = p.channels == kColors && p.r == 2 && p.width % (2 * kVector) == 0 && p.height % 2 == 0 &&
               p.mask_stride[4] == 1 && (planar || interleaved);
  for (int d : {0, 2, 3}) whole = whole && p.stride[d] % kVector == 0 && p.mask_stride[d] % kVector == 0;
  whole = whole && (interleaved || p.stride[1] % kVector == 0);
  return whole && is_aligned(video) && is_aligned(mask) && is_aligned(small) && is_aligned(small_mask);
}

// The same for eight neighbouring small pixels a thread, under takes_vectors. An input row of theirs is 16 pixels:
// two vectors of each colour, or six of all.
template <class T, bool planar>
__global__ void __launch_bounds__(kThreads)
    downsample_vectors_kernel(const T* video, const T* mask, const float* mean_pixel,
                              const __grid_constant__ Downsample p, T* small, T* small_mask) {
  int64_t total = int64_t(p.samples) * p.frames * (p.height / 2) * (p.width / 2);
  int64_t pixel = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (pixel >= total) return;
  Square at = find_square(p, int(pixel));
  float most[kVector] = {}, sum[kColors][kVector] = {}, fill[kColors];
#pragma unroll
  for (int c = 0; c < kColors; ++c) fill[c] = mean_pixel[c];
#pragma unroll
  for (int y = 0; y < 2; ++y) {
    const T* masks = mask + at.n * p.mask_stride[0] + at.t * p.mask_stride[2] + (at.h + y) * p.mask_stride[3] + at.w;
    const T* row = video + at.n * p.stride[0] + at.t * p.stride[2] + (at.h + y) * p.stride[3] + at.w * p.stride[4];
    float hole[2 * kVector];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Vector<T> value = load_vector(masks + i * kVector, kVector, true);
#pragma unroll
      for (int j = 0; j < kVector; ++j) hole[i * kVector + j] = to_float(value.v[j]);
    }
#pragma unroll
    for (int x = 0; x < 2 * kVector; ++x) most[x / 2] = y + x % 2 ? fmaxf(most[x / 2], hole[x]) : hole[x];
#pragma unroll
    for (int i = 0; i < 2 * kColors; ++i) {
      Vector<T> value =
          load_vector(planar ? row + i / 2 * p.stride[1] + i % 2 * kVector : row + i * kVector, kVector, true);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        int c = planar ? i / 2 : (i * kVector + j) % kColors;
        int x = planar ? i % 2 * kVector + j : (i * kVector + j) / kColors;
        sum[c][x / 2] += hole[x] > 0 ? fill[c] : to_float(value.v[j]);
      }
    }
  }
  Vector<T> result;
#pragma unroll
  for (int j = 0; j < kVector; ++j) result.v[j] = from_float<T>(most[j]);
  store_vector(small_mask + pixel, result, kVector, true);
#pragma unroll
  for (int i = 0; i < kColors; ++i) {
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      result.v[j] = from_float<T>(sum[(i * kVector + j) % kColors][(i * kVector + j) / kColors] / 4);
    store_vector(small + pixel * kColors + i * kVector, result, kVector, true);
  }
}

}  // namespace fi
