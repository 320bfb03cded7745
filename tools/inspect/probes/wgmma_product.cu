// A product of matrices as Hopper wants it, to hold sass_bound against: 128 x 256 sums of a block, steps of 64, bf16.
// One warp asks the copy engine for tiles that lie packed in memory (16-bit, 128-byte swizzle); two warpgroups issue
// wgmma m64n256k16 on them and nothing else. Compiled for its machine code; never run.
#include <cuda_bf16.h>
#include <stdint.h>

constexpr int kStages = 4, kRows = 128, kColumns = 256, kDepth = 64;
constexpr int kBytesA = kRows * kDepth * 2, kBytesB = kColumns * kDepth * 2;

__device__ uint32_t address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ void wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again; }" ::"r"(address(barrier)),
      "r"(parity)
      : "memory");
}

__device__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
}

__device__ void copy(void* to, const void* from, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   address(to)),
               "l"(from), "r"(bytes), "r"(address(barrier))
               : "memory");
}

__device__ uint64_t descriptor(const void* p) {  // 128-byte swizzle, k contiguous, eight rows are 1024 bytes
  return uint64_t(address(p) >> 4 & 0x3fff) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D64(i) D8(i), D8(i + 8), D8(i + 16), D8(i + 24), D8(i + 32), D8(i + 40), D8(i + 48), D8(i + 56)

__device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"
      "%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,"
      "%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,"
      "%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
      "%128, %129, 1, 1, 1, 0, 0;"
      : D64(0), D64(64)
      : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(384, 1)
    wgmma_product(const char* a, const char* b, float* out, int steps) {
  extern __shared__ __align__(1024) char memory[];
  __shared__ uint64_t full[kStages], empty[kStages];
  char *stage_a = memory, *stage_b = memory + kStages * kBytesA;
  if (threadIdx.x == 0)
    for (int i = 0; i < kStages; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(full + i)));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 2;" ::"r"(address(empty + i)));
    }
  __syncthreads();
  int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x != 0) return;
    const char *from_a = a + size_t(blockIdx.x) * steps * kBytesA, *from_b = b + size_t(blockIdx.y) * steps * kBytesB;
    for (int step = 0, stage = 0, parity = 1; step < steps; ++step) {
      wait(empty + stage, parity);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(full + stage)),
                   "r"(kBytesA + kBytesB)
                   : "memory");
      copy(stage_a + stage * kBytesA, from_a + size_t(step) * kBytesA, kBytesA, full + stage);
      copy(stage_b + stage * kBytesB, from_b + size_t(step) * kBytesB, kBytesB, full + stage);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  float d[128] = {};
  uint64_t of_a = descriptor(stage_a + (group - 1) * kBytesA / 2), of_b = descriptor(stage_b);
  for (int step = 0, stage = 0, parity = 0; step < steps; ++step) {
    wait(full + stage, parity);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k)
      multiply(d, of_a + stage * (kBytesA >> 4) + k * 2, of_b + stage * (kBytesB >> 4) + k * 2);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // the last step has been read
    if (threadIdx.x % 128 == 0 && step > 0) arrive(empty + (stage + kStages - 1) % kStages);
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  float* to = out + (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * kRows * kColumns + (threadIdx.x - 128);
#pragma unroll
  for (int i = 0; i < 128; ++i) to[i * 256] = d[i];
}
