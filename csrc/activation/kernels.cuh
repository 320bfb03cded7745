// The elementwise kernels: activation forward, its backward with both channel sums, and batch statistics.
//
// A thread processes eight channels, keeps their parameters in registers and walks rows. A block has `groups` such
// threads side by side, so a warp reads 512 contiguous bytes of 16-bit maps. Each kernel reads every input and writes
// every output once. Sums and parameters are float32.
#pragma once
#include "common/cuda_reduce.cuh"
#include "common/cuda_source.cuh"

namespace fi {

// Rows and channels per block: blockIdx.x takes rows [x * rows_each, ...), blockIdx.y takes 8 * groups channels.
struct Columns {
  int rows, rows_each, groups;
};

struct Lane {
  int channel, valid;  // first of the thread's channels, and how many exist
  int row, end, step;
};

__device__ __forceinline__ Lane lane_of(const Columns& columns, int channels) {
  Lane lane;
  lane.channel = (blockIdx.y * columns.groups + threadIdx.x % columns.groups) * kVector;
  lane.valid = max(0, min(kVector, channels - lane.channel));
  lane.step = kThreads / columns.groups;
  lane.row = blockIdx.x * columns.rows_each + threadIdx.x / columns.groups;
  lane.end = min(columns.rows, (int(blockIdx.x) + 1) * columns.rows_each);
  if (lane.valid == 0) lane.row = lane.end;
  return lane;
}

// Rows that a thread reads before it writes the first of them: no load is moved before a store.
template <class T>
constexpr int kAhead = sizeof(T) == 2 ? 4 : 2;

// A thread's vectors of kAhead rows of a map, from `row` on; its rows are `stride` channels apart. Zeros stand for rows
// past the end, and for all of a map that is null.
template <class T>
__device__ __forceinline__ void load_rows(const T* map, int stride, const Lane& lane, int row, bool aligned,
                                          Vector<T> (&values)[kAhead<T>]) {
#pragma unroll
  for (int i = 0; i < kAhead<T>; ++i, row += lane.step) {
    bool exists = map && row < lane.end;
    const T* at = exists ? map + size_t(row) * stride + lane.channel : nullptr;
    values[i] = aligned ? load_or_zero(at, exists) : load_vector(at, exists ? lane.valid : 0, false);
  }
}

// a[row][c] = activation of the source. a's rows are `stride` channels apart (its part of a concatenation).
template <class T>
__global__ void __launch_bounds__(kThreads)
    activation_fwd_kernel(Source source, T* __restrict__ a, int stride, Columns columns, bool aligned) {
  Lane lane = lane_of(columns, source.channels);
  ChannelParams params = load_params(source, lane.channel);
  const T* __restrict__ x = static_cast<const T*>(source.x);
  const T* __restrict__ addend = static_cast<const T*>(source.addend);
  for (int first = lane.row; first < lane.end; first += kAhead<T> * lane.step) {
    Vector<T> values[kAhead<T>], more[kAhead<T>];
    load_rows(x, source.channels, lane, first, aligned, values);
    load_rows(addend, source.channels, lane, first, aligned, more);
#pragma unroll
    for (int i = 0, row = first; i < kAhead<T>; ++i, row += lane.step) {
      if (row >= lane.end) continue;
      Vector<T> value = activate<T>(values[i], more[i], params, addend);
      store_vector(a + size_t(row) * stride + lane.channel, value, lane.valid, aligned);
    }
  }
}

// dz = da * 1[z > 0], dx = dz * scale, and per block the sums of dz and dz * (x - mean).
//   gradient in: da, rows `stride` channels apart   saved: source   gradient out: dx [rows][C] or null, sums
template <class T>
__global__ void __launch_bounds__(kThreads)
    activation_bwd_kernel(const T* __restrict__ da, int stride, Source source, T* __restrict__ dx, Columns columns,
                          bool aligned, Partials sums) {
  FI_DYNAMIC_SHARED(memory);
  Lane lane = lane_of(columns, source.channels);
  ChannelParams params = load_params(source, lane.channel);
  const T* __restrict__ x = static_cast<const T*>(source.x);
  Fold total;
  for (int first = lane.row; first < lane.end; first += kAhead<T> * lane.step) {
    Vector<T> values[kAhead<T>], gradients[kAhead<T>];
    load_rows(x, source.channels, lane, first, aligned, values);
    load_rows(da, stride, lane, first, aligned, gradients);
#pragma unroll
    for (int i = 0, row = first; i < kAhead<T>; ++i, row += lane.step) {
      if (row >= lane.end) continue;
      Vector<T> gradient;
#pragma unroll
      for (int c = 0; c < kVector; ++c) {
        float centred = to_float(values[i].v[c]) - params.mean[c];
        float z = centred * params.scale[c] + params.shift[c];
        float dz = source.relu && z <= 0.0f ? 0.0f : to_float(gradients[i].v[c]);
        total.first[c] += dz;
        total.second[c] += dz * centred;
        gradient.v[c] = from_float<T>(dz * params.scale[c]);
      }
      if (dx) store_vector(dx + size_t(row) * source.channels + lane.channel, gradient, lane.valid, aligned);
    }
  }
  if (sums.value)
    fold_block<false>(SharedArena(memory, fold_bytes()), total, 0, columns.groups,
                      blockIdx.y * columns.groups * kVector, blockIdx.x, sums);
}

// Per block, the mean and the sum of squared deviations of each channel of the activation.
template <class T>
__global__ void __launch_bounds__(kThreads)
    batch_stats_kernel(const T* x, int channels, Columns columns, bool aligned, Partials out) {
  FI_DYNAMIC_SHARED(memory);
  Lane lane = lane_of(columns, channels);
  Fold moments;
  float count = 0;
#pragma unroll 4
  for (int row = lane.row; row < lane.end; row += lane.step) {
    Vector<T> value = load_vector(x + size_t(row) * channels + lane.channel, lane.valid, aligned);
    count += 1;
    float wide[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) wide[i] = to_float(value.v[i]);
    moments.add_moments(wide, count);
  }
  // a thread without channels has read no rows, so take its row lane's count from the first group
  fold_block<true>(SharedArena(memory, fold_bytes()), moments, count, columns.groups,
                   blockIdx.y * columns.groups * kVector, blockIdx.x, out);
}

// Per block, the sum of each channel of a source's activation (a bias gradient if the source represents G).
template <class T>
__global__ void __launch_bounds__(kThreads)
    channel_sum_kernel(Source source, Columns columns, bool aligned, Partials out) {
  FI_DYNAMIC_SHARED(memory);
  Lane lane = lane_of(columns, source.channels);
  ChannelParams params = load_params(source, lane.channel);
  const T* x = static_cast<const T*>(source.x);
  const T* addend = static_cast<const T*>(source.addend);
  Fold total;
#pragma unroll 4
  for (int row = lane.row; row < lane.end; row += lane.step) {
    size_t at = size_t(row) * source.channels + lane.channel;
    Vector<T> value = load_vector(x + at, lane.valid, aligned);
    Vector<T> more = addend ? load_vector(addend + at, lane.valid, aligned) : zero_vector<T>();
#pragma unroll
    for (int i = 0; i < kVector; ++i) total.first[i] += activate(to_float(value.v[i]), params, i) + to_float(more.v[i]);
  }
  fold_block<false>(SharedArena(memory, fold_bytes()), total, 0, columns.groups, blockIdx.y * columns.groups * kVector,
                    blockIdx.x, out);
}

}  // namespace fi
