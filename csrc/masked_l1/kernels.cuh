// masked_l1: loss = 1/G sum_g A_g / B_g, A_g = sum mask |output - target|, B_g = sum mask, both over the elements of
// group g (a sample, Eq. 1, or a frame, Eq. 2), so that the mask counts once for each channel. Wang et al. 2019.
//
// A frame is one plane of neighbouring elements where channels are innermost (element e has mask e / C), a plane for
// each channel otherwise. A thread takes eight elements at a time, the same of every plane, so that each value of the
// mask is read once; sums are float32.
#pragma once
#include "common/cuda_reduce.cuh"

namespace fi {

struct Slices {
  int samples, channels, frames;
  int length, per_mask;  // elements of a plane; neighbours that share a mask value (C, or 1)
  int splits;            // blocks to a frame
  int per_frame;
};

__host__ __device__ inline int plane_count(const Slices& s) { return s.per_mask > 1 ? 1 : s.channels; }

__device__ inline int group_count(const Slices& s) { return s.per_frame ? s.samples * s.frames : s.samples; }

// Where the first plane of frame sample * frames + t begins; the next one is frames * length further.
__device__ inline int64_t frame_offset(const Slices& s, int frame) {
  return (int64_t(frame / s.frames) * plane_count(s) * s.frames + frame % s.frames) * s.length;
}

// The mask of eight elements from `first` on; beyond the plane zero. aligned: of the frame's mask.
template <class T>
__device__ __forceinline__ void load_mask(const T* mask, const Slices& s, int first, bool aligned,
                                          float (&value)[kVector]) {
  if (s.per_mask == 1) {
    Vector<T> read = load_vector(mask + first, s.length - first, aligned);
#pragma unroll
    for (int i = 0; i < kVector; ++i) value[i] = to_float(read.v[i]);
    return;
  }
  int at = first / s.per_mask, rest = first - at * s.per_mask;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    value[i] = first + i < s.length ? to_float(mask[at]) : 0.0f;
    if (++rest == s.per_mask) rest = 0, ++at;
  }
}

// partial[frame][split] = (sum mask |output - target|, sum mask); output null: the second alone.
template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_l1_sum_kernel(const T* output, const T* target, const T* mask, Slices s, bool aligned, float2* partial) {
  FI_DYNAMIC_SHARED(memory);
  float2* sums = SharedArena(memory, shared_part(kThreads * int(sizeof(float2)))).take<float2>(kThreads);
  int frame = blockIdx.x, planes = plane_count(s);
  int64_t offset = frame_offset(s, frame), apart = int64_t(s.frames) * s.length;
  const T* frame_mask = mask + int64_t(frame) * (s.length / s.per_mask);
  float error = 0, holes = 0;
  for (int first = (blockIdx.y * kThreads + threadIdx.x) * kVector; first < s.length;
       first += s.splits * kThreads * kVector) {
    float value[kVector];
    load_mask(frame_mask, s, first, aligned, value);
#pragma unroll
    for (int i = 0; i < kVector; ++i) holes += planes * value[i];
    for (int plane = 0; output && plane < planes; ++plane) {
      int64_t at = offset + plane * apart + first;
      Vector<T> a = load_vector(output + at, s.length - first, aligned);
      Vector<T> b = load_vector(target + at, s.length - first, aligned);
#pragma unroll
      for (int i = 0; i < kVector; ++i) error += value[i] * fabsf(to_float(a.v[i]) - to_float(b.v[i]));
    }
  }
  sums[threadIdx.x] = make_float2(error, holes);
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) {
      sums[threadIdx.x].x += sums[threadIdx.x + half].x;
      sums[threadIdx.x].y += sums[threadIdx.x + half].y;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) partial[int64_t(frame) * s.splits + blockIdx.y] = sums[0];
}

// group[g] = (A_g, B_g): a warp a group.
static __global__ void __launch_bounds__(32) masked_l1_group_kernel(const float2* partial, Slices s, float2* group) {
  int count = (s.per_frame ? 1 : s.frames) * s.splits;
  Sum error, holes;
  for (int i = threadIdx.x; i < count; i += 32) {
    float2 v = partial[int64_t(blockIdx.x) * count + i];
    error.add(v.x), holes.add(v.y);
  }
  float2 total = make_float2(error.value, holes.value);
  for (int apart = 1; apart < 32; apart *= 2) {
    total.x += __shfl_xor_sync(~0u, total.x, apart);
    total.y += __shfl_xor_sync(~0u, total.y, apart);
  }
  if (threadIdx.x == 0) group[blockIdx.x] = total;
}

static __global__ void masked_l1_loss_kernel(const float2* group, Slices s, float* loss) {
  Sum total;
  for (int g = 0; g < group_count(s); ++g) total.add(group[g].x / group[g].y);
  *loss = total.value / group_count(s);
}

// doutput = dloss * sign(output - target) * mask / (B_g G)
//   gradient in: dloss [1] float32   saved: output, target, mask, group   gradient out: doutput, as output
template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_l1_bwd_kernel(const float* dloss, const T* output, const T* target, const T* mask, const float2* group,
                         Slices s, bool aligned, T* doutput) {
  int frame = blockIdx.x;
  int64_t offset = frame_offset(s, frame), apart = int64_t(s.frames) * s.length;
  const T* frame_mask = mask + int64_t(frame) * (s.length / s.per_mask);
  float factor = *dloss / (group[s.per_frame ? frame : frame / s.frames].y * group_count(s));
  for (int first = (blockIdx.y * kThreads + threadIdx.x) * kVector; first < s.length;
       first += s.splits * kThreads * kVector) {
    float value[kVector];
    load_mask(frame_mask, s, first, aligned, value);
    for (int plane = 0; plane < plane_count(s); ++plane) {
      int64_t at = offset + plane * apart + first;
      Vector<T> a = load_vector(output + at, s.length - first, aligned);
      Vector<T> b = load_vector(target + at, s.length - first, aligned);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        float error = to_float(a.v[i]) - to_float(b.v[i]);
        float sign = error > 0 ? 1.0f : (error < 0 ? -1.0f : 0.0f);
        a.v[i] = from_float<T>(sign * value[i] * factor);
      }
      store_vector(doutput + at, a, s.length - first, aligned);
    }
  }
}

}  // namespace fi
