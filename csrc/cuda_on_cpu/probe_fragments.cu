// Probes of single instructions with raw inputs and outputs per lane. Tests build them by g++ and, on a machine with a
// GPU, by nvcc. Both must agree with the PTX manual's tables. Not part of the library. A block is one warp and one
// trial.
#include "common/cuda_vector.cuh"

namespace fi {

constexpr int kLanes = 32;

// to[trial][lane][4] = ldmatrix of from[trial][32 rows][8]; lane l gives the address of row order[trial][l].
template <bool transposed>
__global__ void ldmatrix_kernel(const uint4* from, const int* order, uint32_t* to) {
  FI_DYNAMIC_SHARED(memory);
  uint4* rows = reinterpret_cast<uint4*>(memory);
  int at = blockIdx.x * kLanes + threadIdx.x;
  rows[threadIdx.x] = from[at];
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4<transposed>(r, rows + order[at]);
  for (int i = 0; i < 4; ++i) to[at * 4 + i] = r[i];
}

template <class T>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T) {
  mma_m16n8k16<T>(d, a, b);
}
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  mma_m16n8k8(d, a, b);
}

// d[trial][lane][4] += a[trial][lane][4] b[trial][lane][2]; float means tf32.
template <class T>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* d) {
  int at = blockIdx.x * kLanes + threadIdx.x;
  uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[at * 4 + i], sum[i] = d[at * 4 + i];
  for (int i = 0; i < 2; ++i) right[i] = b[at * 2 + i];
  multiply(sum, left, right, T());
  for (int i = 0; i < 4; ++i) d[at * 4 + i] = sum[i];
}

// to[trial][group][lane] = the lane's 16 bytes of a group, read after waiting for all but the later groups. Lanes whose
// bit of `real` is not set copy nothing.
__global__ void cp_async_kernel(const uint4* from, const unsigned* real, uint4* to) {
  FI_DYNAMIC_SHARED(memory);
  constexpr int kGroups = 3;
  uint4* mine = reinterpret_cast<uint4*>(memory) + threadIdx.x;
  for (int group = 0; group < kGroups; ++group) mine[group * kLanes] = make_uint4(~0u, 1, 2, 3);
  __syncthreads();
  int at = blockIdx.x * kGroups * kLanes + threadIdx.x;
  for (int group = 0; group < kGroups; ++group) {
    bool copies = real[blockIdx.x * kGroups + group] >> threadIdx.x & 1;
    cp_async16(mine + group * kLanes, from + at + group * kLanes, copies);
    cp_async_commit();
  }
  cp_async_wait<2>();
  to[at] = mine[0];
  cp_async_wait<1>();
  to[at + kLanes] = mine[kLanes];
  cp_async_wait<0>();
  to[at + 2 * kLanes] = mine[2 * kLanes];
}

__global__ void round_kernel(const float* from, uint32_t* to) {
  int at = blockIdx.x * kLanes + threadIdx.x;
  to[at] = round_to_tf32(from[at]);
}

}  // namespace fi

using namespace fi;

FI_EXPORT int fi_probe_ldmatrix(int transposed, int trials, const uint4* from, const int* order, uint32_t* to) {
  int bytes = kLanes * int(sizeof(uint4));
  if (transposed)
    FI_LAUNCH(ldmatrix_kernel<true>, trials, kLanes, bytes, nullptr, from, order, to);
  else
    FI_LAUNCH(ldmatrix_kernel<false>, trials, kLanes, bytes, nullptr, from, order, to);
  return static_cast<int>(cudaGetLastError());
}

// kind: 0 tf32, 1 bfloat16, 2 float16.
FI_EXPORT int fi_probe_mma(int kind, int trials, const uint32_t* a, const uint32_t* b, float* d) {
  if (kind == 0)
    FI_LAUNCH(mma_kernel<float>, trials, kLanes, 0, nullptr, a, b, d);
  else if (kind == 1)
    FI_LAUNCH(mma_kernel<__nv_bfloat16>, trials, kLanes, 0, nullptr, a, b, d);
  else
    FI_LAUNCH(mma_kernel<__half>, trials, kLanes, 0, nullptr, a, b, d);
  return static_cast<int>(cudaGetLastError());
}

FI_EXPORT int fi_probe_cp_async(int trials, const uint4* from, const unsigned* real, uint4* to) {
  FI_LAUNCH(cp_async_kernel, trials, kLanes, 3 * kLanes * int(sizeof(uint4)), nullptr, from, real, to);
  return static_cast<int>(cudaGetLastError());
}

FI_EXPORT int fi_probe_round_to_tf32(int trials, const float* from, uint32_t* to) {
  FI_LAUNCH(round_kernel, trials, kLanes, 0, nullptr, from, to);
  return static_cast<int>(cudaGetLastError());
}
