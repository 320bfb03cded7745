// Probes of sm_90a's wgmma registers, descriptors and barrier phases. Tests build them by g++ and, on a machine with
// such a GPU, by nvcc. Both must agree. Not part of the library.
// clang-format off: under nvcc the second needs the first one's 16-bit types
#include "common/cuda_vector.cuh"
#include "common/cuda_ptx_sm90.cuh"
// clang-format on

namespace fi {

constexpr int kProbeDepth = 64;  // of k per round: four k16

// An operand in memory: its bytes and, in bytes, the offsets between core matrices and between k16.
struct ProbeOperand {
  const char* from;
  int bytes, along_k, along_mn, next_k16;
};

// d[thread][64] = the thread's accumulators of the sum over `rounds` of A B. A is 64 x 64 and B 64 x 128, in core
// matrices; rounds follow each other in memory. All use the same shared memory, so the barrier has a phase per round.
template <class T, bool mn_major>
__global__ void __launch_bounds__(128)
    probe_kernel(ProbeOperand a, ProbeOperand b, int rounds, float* d, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  uint64_t* barrier = arena.take<uint64_t>(1);
  char *to_a = arena.take<char>(a.bytes), *to_b = arena.take<char>(b.bytes);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  float sum[16][4] = {};
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(barrier, a.bytes + b.bytes);
      bulk_copy(to_a, a.from + round * a.bytes, a.bytes, barrier);
      bulk_copy(to_b, b.from + round * b.bytes, b.bytes, barrier);
    }
    mbarrier_wait(barrier, round & 1);
    uint64_t left = descriptor(to_a, a.along_k, a.along_mn), right = descriptor(to_b, b.along_k, b.along_mn);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kProbeDepth / 16; ++k)
      wgmma_m64n128k16<T, mn_major>(sum, left + k * (a.next_k16 >> 4), right + k * (b.next_k16 >> 4));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settled(sum);
    __syncthreads();  // the factors have been read
  }
#pragma unroll
  for (int n = 0; n < 16; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 64 + n * 4 + i] = sum[n][i];
}

template <class T, bool mn_major>
static int run_probe(const ProbeOperand& a, const ProbeOperand& b, int rounds, float* d, void* stream) {
  int bytes = shared_part(int(sizeof(uint64_t))) + shared_part(a.bytes) + shared_part(b.bytes);
  FI_LAUNCH((probe_kernel<T, mn_major>), 1, 128, bytes, stream, a, b, rounds, d, bytes);
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

FI_EXPORT int fi_probe_wgmma(int half, int mn_major, const fi::ProbeOperand* a, const fi::ProbeOperand* b, int rounds,
                             float* d, void* stream) {
  using namespace fi;
  if (mn_major)
    return half ? run_probe<__half, true>(*a, *b, rounds, d, stream)
                : run_probe<__nv_bfloat16, true>(*a, *b, rounds, d, stream);
  return half ? run_probe<__half, false>(*a, *b, rounds, d, stream)
              : run_probe<__nv_bfloat16, false>(*a, *b, rounds, d, stream);
}
