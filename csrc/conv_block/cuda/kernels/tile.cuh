// The tile product: 128 rows of a patch in shared memory times BN columns of packed weights. 16-bit types and tf32 use
// tensor cores; float uses exact float32. Accumulators always have the layout of mma.sync's D.
#pragma once
#include "common/cuda_reduce.cuh"
#include "common/cuda_source.cuh"

namespace fi {

constexpr int kTileRows = 128;  // positions of a tile
constexpr int kChunk = 32;      // channels of a step: two k16 steps of mma.sync between barriers

// Elements between adjacent rows in shared memory. 16 bytes of padding put the eight rows of an ldmatrix into different
// bank groups.
template <class T>
constexpr int pitch(int columns) {
  return columns + 16 / int(sizeof(T));
}

// The same for rows of columns (B). ldmatrix.trans supports 16-bit values only. tf32 is read value by value, four rows
// of eight adjacent values at once, which 32 bytes of padding put into different banks.
template <class T>
constexpr int b_pitch(int columns) {
  return std::is_same<T, Tf32>::value ? columns + 8 : pitch<T>(columns);
}

// Four warps: 2 x 2 over tiles with at least 64 columns, so that a warp reuses both operands; else 4 x 1.
template <int BN>
struct WarpTile {
  static constexpr int kWarpsN = BN >= 64 ? 2 : 1;
  static constexpr int kRows = kTileRows / (4 / kWarpsN), kColumns = BN / kWarpsN;
  static constexpr int kM = kRows / 16, kN = kColumns / 8;  // mma tiles per warp
};

template <int BN>
using Accumulators = float[WarpTile<BN>::kM][WarpTile<BN>::kN][4];

// The first row and column of this thread's warp.
template <int BN>
__device__ __forceinline__ int warp_row() {
  return threadIdx.x / 32 / WarpTile<BN>::kWarpsN * WarpTile<BN>::kRows;
}
template <int BN>
__device__ __forceinline__ int warp_column() {
  return threadIdx.x / 32 % WarpTile<BN>::kWarpsN * WarpTile<BN>::kColumns;
}

// d += the outer product of two rows and two columns, in mma.sync's D layout.
__device__ __forceinline__ void fma_tile(float (&d)[4], const float (&a)[2], float2 b) {
  d[0] += a[0] * b.x;
  d[1] += a[0] * b.y;
  d[2] += a[1] * b.x;
  d[3] += a[1] * b.y;
}

template <int M, int N>
__device__ __forceinline__ void add_tiles(float (&to)[M][N][4], const float (&from)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) to[m][n][i] += from[m][n][i];
}

// Loads the tf32 fragment of eight rows (k) and eight columns from `from`; rows are b_pitch apart.
__device__ __forceinline__ void load_b_tf32(uint32_t (&b)[2], const Tf32* from, int pitch) {
  int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  b[0] = from[t * pitch + group].bits;
  b[1] = from[(t + 4) * pitch + group].bits;
}

// Offsets of the rows of A that a lane reads, equal in every step. With ldmatrix a lane addresses one row of each m16
// tile, with float32 two.
template <class T, int BN>
struct LaneRows {
  static constexpr int kEach = std::is_same<T, float>::value ? 2 : 1;
  int at[WarpTile<BN>::kM][kEach];

  // row_of(m) is the element offset of A's row m in the patch.
  template <class R>
  __device__ __forceinline__ void fill(R row_of) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < WarpTile<BN>::kM; ++m)
#pragma unroll
      for (int half = 0; half < kEach; ++half) {
        int row = row_of(warp_row<BN>() + m * 16 + (kEach == 2 ? half * 8 + lane / 4 : lane % 16));
        at[m][half] = __shfl_sync(~0u, row, lane);  // or the compiler computes it again in every step
      }
  }
};

// acc += A B, where A is 128 x 32 and B is 32 x BN at `weights` with rows b_pitch<T>(BN) apart.
//   rows: A's row offsets in `patch`     column_of(k8): offset of its columns 8 k8 ... 8 k8 + 7
template <class T, int BN, class C>
__device__ __forceinline__ void multiply_tile(Accumulators<BN>& acc, const T* patch, const T* weights,
                                              const LaneRows<T, BN>& rows, C column_of) {
  using W = WarpTile<BN>;
  int lane = threadIdx.x % 32;
  const T* b_base = weights + warp_column<BN>();
  if constexpr (sizeof(T) == 2) {
    const T* row[W::kM];
    int first = column_of(lane / 16);
#pragma unroll
    for (int m = 0; m < W::kM; ++m) row[m] = patch + rows.at[m][0] + first;
#pragma unroll
    for (int kk = 0; kk < kChunk / 16; ++kk) {
      uint32_t a[W::kM][4];
      int further = column_of(2 * kk + lane / 16) - first;  // often a constant
#pragma unroll
      for (int m = 0; m < W::kM; ++m) ldmatrix_x4<false>(a[m], row[m] + further);
#pragma unroll
      for (int n = 0; n < W::kN; n += 2) {
        uint32_t b[4];
        ldmatrix_x4<true>(b, b_base + (kk * 16 + lane % 16) * b_pitch<T>(BN) + n * 8 + lane / 16 * 8);
        uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < W::kM; ++m) {
          mma_m16n8k16<T>(acc[m][n], a[m], left);
          mma_m16n8k16<T>(acc[m][n + 1], a[m], right);
        }
      }
    }
  } else if constexpr (std::is_same<T, Tf32>::value) {
#pragma unroll
    for (int k8 = 0; k8 < kChunk / 8; ++k8) {
      uint32_t a[W::kM][4];  // 16 bytes of a row are four values; ldmatrix gives one to each lane
      int column = column_of(k8) + lane / 16 * 4;
#pragma unroll
      for (int m = 0; m < W::kM; ++m) ldmatrix_x4<false>(a[m], patch + rows.at[m][0] + column);
#pragma unroll
      for (int n = 0; n < W::kN; ++n) {
        uint32_t b[2];
        load_b_tf32(b, b_base + k8 * 8 * b_pitch<T>(BN) + n * 8, b_pitch<T>(BN));
#pragma unroll
        for (int m = 0; m < W::kM; ++m) mma_m16n8k8(acc[m][n], a[m], b);
      }
    }
  } else {
    int t = lane % 4;
    Accumulators<BN> step = {};  // summed separately, so that the error grows with the number of steps, not terms
#pragma unroll 1
    for (int k8 = 0; k8 < kChunk / 8; ++k8) {
      int column = column_of(k8);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        float a[W::kM][2];
#pragma unroll
        for (int m = 0; m < W::kM; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) a[m][half] = patch[rows.at[m][half] + column + k];
#pragma unroll
        for (int n = 0; n < W::kN; ++n) {
          float2 b = *reinterpret_cast<const float2*>(b_base + (k8 * 8 + k) * b_pitch<T>(BN) + n * 8 + 2 * t);
#pragma unroll
          for (int m = 0; m < W::kM; ++m) fma_tile(step[m][n], a[m], b);
        }
      }
    }
    add_tiles<W::kM, W::kN>(acc, step);
  }
}

// Rows of the staged result have a pitch of pitch<float>(BN) floats.
constexpr int staging_bytes(int columns) { return shared_part(kTileRows * pitch<float>(columns) * int(sizeof(float))); }

// Writes the accumulators to shared memory, from which a thread reads eight channels of a position.
template <int BN>
__device__ __forceinline__ void stage_accumulators(const Accumulators<BN>& acc, float* staged) {
  int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < WarpTile<BN>::kM; ++m)
#pragma unroll
    for (int n = 0; n < WarpTile<BN>::kN; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int row = warp_row<BN>() + m * 16 + half * 8 + group, column = warp_column<BN>() + n * 8 + 2 * t;
        *reinterpret_cast<float2*>(staged + row * pitch<float>(BN) + column) =
            make_float2(acc[m][n][2 * half], acc[m][n][2 * half + 1]);
      }
}

}  // namespace fi
