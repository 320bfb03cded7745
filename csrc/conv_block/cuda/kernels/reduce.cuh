// The second stage of wgrad: sums the splits' partials in a fixed order and transposes them to dweight's layout.
//
//   partial  [split][tap][p][q] float32, as kernels/wgrad.cuh stores it; read in vectors of four q
//   dweight  contiguous, [q][p][tap] or [p][q][tap]; written in vectors of eight
//
// A block sums a panel of rows (p, tap) x groups of four q in shared memory. Its columns are runs of dweight:
//
//   [q][p][tap]  eight adjacent (p, tap), which are one vector for each q
//   [p][q][tap]  all taps of one p and eight q, which are as many vectors as taps
#pragma once
#include "conv_block/cuda/kernels/load.cuh"

namespace fi {

struct ReduceParams {
  int taps, p_channels, q_channels, splits;
  bool p_inner;       // dweight is [q][p][tap]
  int rows, vectors;  // of a panel
  int parts;          // threads per vector, a power of two; each sums every parts-th split
};

inline __host__ __device__ int reduce_bytes(const ReduceParams& p) {
  return shared_part(p.parts * p.rows * p.vectors * int(sizeof(float4)));
}

__device__ __forceinline__ void add(float4& to, const float4& from) {
  to.x += from.x, to.y += from.y, to.z += from.z, to.w += from.w;
}

// Reads `valid` values from p and zeros for the rest; aligned: all four in one access.
__device__ __forceinline__ float4 load_four(const float* p, int valid, bool aligned) {
  if (aligned) return *reinterpret_cast<const float4*>(p);
  return make_float4(p[0], valid > 1 ? p[1] : 0.0f, valid > 2 ? p[2] : 0.0f, valid > 3 ? p[3] : 0.0f);
}

// One part's sum over its splits, for four q of a row.
__device__ __forceinline__ float4 sum_splits(const float* partial, const ReduceParams& p, int row, int q, int part) {
  float4 sum = make_float4(0, 0, 0, 0);
  if (row >= p.p_channels * p.taps || q >= p.q_channels) return sum;
  int64_t total = int64_t(p.taps) * p.p_channels * p.q_channels;
  const float* from = partial + (int64_t(row % p.taps) * p.p_channels + row / p.taps) * p.q_channels + q;
#pragma unroll 4
  for (int split = part; split < p.splits; split += p.parts)
    add(sum, load_four(from + split * total, p.q_channels - q, p.q_channels % 4 == 0));
  return sum;
}

// Writes a panel to dweight. Its values are at row * columns + column.
template <class T>
__device__ void store_panel(const ReduceParams& p, const float* panel, int first_row, int first_q, T* dweight) {
  int columns = 4 * p.vectors, run = p.taps * (p.p_inner ? p.p_channels : p.q_channels);
  bool aligned = run % kVector == 0 && is_aligned(dweight);
  for (int i = threadIdx.x; i < p.rows * columns / kVector; i += kThreads) {
    int line = p.p_inner ? first_q + i : first_row / p.taps;
    int at = p.p_inner ? first_row : first_q * p.taps + i * kVector;
    if (p.p_inner && line >= p.q_channels) continue;
    Vector<T> value;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      int e = i * kVector + j;  // of [p][q][tap]
      value.v[j] = from_float<T>(p.p_inner ? panel[j * columns + i] : panel[e % p.taps * columns + e / p.taps]);
    }
    store_vector(dweight + int64_t(line) * run + at, value, run - at, aligned && at + kVector <= run);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(const float* partial, const __grid_constant__ ReduceParams p, T* dweight) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, reduce_bytes(p));
  int each = p.rows * p.vectors;
  float4* sums = arena.take<float4>(p.parts * each);  // [part][row][group of q]
  int panels = ceil_div(p.q_channels, 4 * p.vectors);
  int first_row = blockIdx.x / panels * p.rows, first_q = blockIdx.x % panels * 4 * p.vectors;
  int lanes = kThreads / p.parts, part = threadIdx.x / lanes;
  for (int i = threadIdx.x % lanes; i < each; i += lanes)
    sums[part * each + i] = sum_splits(partial, p, first_row + i / p.vectors, first_q + i % p.vectors * 4, part);
  __syncthreads();
  for (int i = threadIdx.x; i < each; i += kThreads) {
    float4 sum = sums[i];
    for (int other = 1; other < p.parts; ++other) add(sum, sums[other * each + i]);
    sums[i] = sum;
  }
  __syncthreads();
  store_panel(p, reinterpret_cast<const float*>(sums), first_row, first_q, dweight);
}

}  // namespace fi
