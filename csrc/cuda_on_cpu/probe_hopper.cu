// Probes of sm_90a's wgmma registers, descriptors and barrier phases. Tests build them by g++ and, on a machine with
// such a GPU, by nvcc. Both must agree. Not part of the library.
#include "common/cuda_ptx_sm90.cuh"

namespace fi {

constexpr int kProbeBytes = 128 * 64 * 2;  // a tile of B: 128 columns of 64 k

// The thread's registers of A, 64 x 64 and row-major, for four k16.
__device__ inline void load_a(const uint16_t* a, uint32_t (&rows)[4][4]) {
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint16_t* at = a + (row + i % 2 * 8) * 64 + k * 16 + i / 2 * 8 + column;
      rows[k][i] = at[0] | uint32_t(at[1]) << 16;
    }
}

// d[thread][64] = the thread's accumulators of the sum over `rounds` of A B_round. A is 64 x 64, row-major. B_round is
// a tile in pack_hopper_kernel's layout. All tiles use the same memory, so the barrier has one phase per round.
template <class T>
__global__ void __launch_bounds__(128)
    probe_kernel(const uint16_t* a, const char* b, int rounds, float* d, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  uint64_t* barrier = arena.take<uint64_t>(1);
  arena.at += -shared_address(arena.at) & 1023;
  char* tile = arena.take<char>(kProbeBytes);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  float sum[16][4] = {};
  uint32_t rows[4][4];
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(barrier, kProbeBytes);
      bulk_copy(tile, b + round * kProbeBytes, kProbeBytes, barrier);
    }
    mbarrier_wait(barrier, round & 1);
    load_a(a, rows);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_m64k16<T>(sum, rows[k], descriptor(tile) + k * (32 >> 4));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settled(sum);
    __syncthreads();  // the tile has been read
  }
#pragma unroll
  for (int n = 0; n < 16; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 64 + n * 4 + i] = sum[n][i];
}

template <class T>
static int run_probe(const void* a, const void* b, int rounds, float* d, void* stream) {
  int bytes = 1024 + shared_part(int(sizeof(uint64_t))) + shared_part(kProbeBytes);
  FI_LAUNCH(probe_kernel<T>, 1, 128, bytes, stream, static_cast<const uint16_t*>(a), static_cast<const char*>(b),
            rounds, d, bytes);
  return static_cast<int>(cudaGetLastError());
}

// As probe_kernel with B transposed: B_round is 64 k of 64 columns, as swizzled rows of 128 bytes that the threads
// write to shared memory. d[thread][32].
template <class T>
__global__ void __launch_bounds__(128)
    transposed_b_kernel(const uint16_t* a, const uint4* b, int rounds, float* d, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  arena.at += -shared_address(arena.at) & 1023;
  uint4* tile = arena.take<uint4>(kProbeBytes / 32);
  float sum[8][4] = {};
  uint32_t rows[4][4];
  for (int round = 0; round < rounds; ++round) {
    for (int i = threadIdx.x; i < kProbeBytes / 32; i += 128)
      store_operand(tile + i, b[round * (kProbeBytes / 32) + i]);
    fence_proxy_async();
    __syncthreads();
    load_a(a, rows);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_transposed_b_m64n64k16<T>(sum, rows[k], descriptor(tile) + k * (2048 >> 4));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settled(sum);
    __syncthreads();  // the tile has been read
  }
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 32 + n * 4 + i] = sum[n][i];
}

template <class T>
static int run_transposed_b(const void* a, const void* b, int rounds, float* d, void* stream) {
  int bytes = 1024 + shared_part(kProbeBytes / 2);
  FI_LAUNCH(transposed_b_kernel<T>, 1, 128, bytes, stream, static_cast<const uint16_t*>(a),
            static_cast<const uint4*>(b), rounds, d, bytes);
  return static_cast<int>(cudaGetLastError());
}

// to[round][2 bytes] = from[round][2 bytes], by two bulk copies per phase of one barrier, the second half first.
__global__ void __launch_bounds__(128)
    bulk_kernel(const char* from, int rounds, int bytes, char* to, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  uint64_t* barrier = arena.take<uint64_t>(1);
  char* landing = arena.take<char>(2 * bytes);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    const char* source = from + round * 2 * bytes;
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(barrier, 2 * bytes);
      bulk_copy(landing + bytes, source + bytes, bytes, barrier);
      bulk_copy(landing, source, bytes, barrier);
    }
    mbarrier_wait(barrier, round & 1);
    for (int i = threadIdx.x; i < 2 * bytes; i += 128) to[round * 2 * bytes + i] = landing[i];
    __syncthreads();  // they may be overwritten
  }
}

}  // namespace fi

FI_EXPORT int fi_probe_bulk(const char* from, int rounds, int bytes, char* to) {
  int shared_bytes = fi::shared_part(int(sizeof(uint64_t))) + fi::shared_part(2 * bytes);
  FI_LAUNCH(fi::bulk_kernel, 1, 128, shared_bytes, nullptr, from, rounds, bytes, to, shared_bytes);
  return static_cast<int>(cudaGetLastError());
}

FI_EXPORT int fi_probe_transposed_b(int half, const void* a, const void* b, int rounds, float* d, void* stream) {
  return half ? fi::run_transposed_b<__half>(a, b, rounds, d, stream)
              : fi::run_transposed_b<__nv_bfloat16>(a, b, rounds, d, stream);
}

FI_EXPORT int fi_probe_wgmma(int half, const void* a, const void* b, int rounds, float* d, void* stream) {
  return half ? fi::run_probe<__half>(a, b, rounds, d, stream) : fi::run_probe<__nv_bfloat16>(a, b, rounds, d, stream);
}
