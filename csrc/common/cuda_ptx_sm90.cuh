// PTX of sm_90a: mbarriers, bulk copies, wgmma. csrc/cuda_on_cpu has the same functions for the CPU (mbarrier.h,
// wgmma.h).
#pragma once
#include "cuda_language.cuh"

#ifndef FI_EMULATED
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "these instructions exist for sm_90a only"
#endif

namespace fi {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// A phase of the barrier completes after `arrivals` arrivals and once all announced bytes have landed.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine. The block's threads also need a __syncthreads.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(shared_address(barrier))
               : "memory");
}

// Announces `bytes` for this phase and arrives.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Attempts before a wait traps, if FI_TRAP_WAITS is defined (to find a lost arrival).
constexpr uint32_t kMostTries = 1u << 24;

// Waits until the phase of that parity is complete.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
#ifdef FI_TRAP_WAITS
  uint32_t tries = 0;
#endif
  do {
#ifdef FI_TRAP_WAITS
    if (++tries == kMostTries) __trap();
#endif
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
  } while (!done);
}

// Copies to shared memory asynchronously. The bytes count for the barrier's phase when they land. Addresses and size
// are 16-byte aligned.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// Orders this thread's register accesses before the following wgmma. Needed for accumulators and A.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `pending` committed groups are in flight.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// The descriptor of 128-byte rows of k in groups of eight (1024 bytes, swizzled in 16-byte units), 1024-byte aligned.
// The address is in units of 16 bytes, so the next k16 is at + 2.
__device__ __forceinline__ uint64_t descriptor(const void* tile) {
  return uint64_t((shared_address(tile) & 0x3FFFF) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

#define FI_D4(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define FI_D64                                                                                                   \
  FI_D4(0), FI_D4(1), FI_D4(2), FI_D4(3), FI_D4(4), FI_D4(5), FI_D4(6), FI_D4(7), FI_D4(8), FI_D4(9), FI_D4(10), \
      FI_D4(11), FI_D4(12), FI_D4(13), FI_D4(14), FI_D4(15)
#define FI_WGMMA_128(type)                                                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                           \
               " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," \
               "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
               "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63},{%64,%65,%66,%67},%68,1,1,1,0;"                      \
               : FI_D64                                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// d += a b, asynchronous: 64x128 += 64x16 16x128 with float32 sums. Each warp gives 16 rows of A in the layout of
// mma.sync's A and gets d in the layout of its D; d[n] holds columns 8 n ... 8 n + 7. d and a must not be accessed
// until wait_group has covered the group.
template <class T>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same<T, __half>::value) {
    FI_WGMMA_128("f16");
  } else {
    FI_WGMMA_128("bf16");
  }
}

// Call after the last wait: keeps the compiler from moving reads of d before it.
__device__ __forceinline__ void wgmma_settled(float (&d)[16][4]) { asm volatile("" : FI_D64::"memory"); }

#define FI_D32 FI_D4(0), FI_D4(1), FI_D4(2), FI_D4(3), FI_D4(4), FI_D4(5), FI_D4(6), FI_D4(7)
#define FI_WGMMA_TURNED_64(type)                                                                                      \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                            \
               " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," \
               "%27,%28,%29,%30,%31},{%32,%33,%34,%35},%36,1,1,1,1;"                                                  \
               : FI_D32                                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// The same with 64 columns and B transposed: a 128-byte row holds 64 columns of one k. Groups and swizzle are as in
// descriptor(). The next k16 is 2048 bytes further on.
template <class T>
__device__ __forceinline__ void wgmma_transposed_b_m64n64k16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same<T, __half>::value) {
    FI_WGMMA_TURNED_64("f16");
  } else {
    FI_WGMMA_TURNED_64("bf16");
  }
}

__device__ __forceinline__ void wgmma_settled(float (&d)[8][4]) { asm volatile("" : FI_D32::"memory"); }

// Writes 16 bytes for wgmma to read, after this thread's fence_proxy_async and a barrier.
__device__ __forceinline__ void store_operand(void* to, const uint4& value) {
  // one 16-byte store: the compiler would emit four 4-byte stores with bank conflicts
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}

// Makes this thread's writes to shared memory visible to the tensor cores, which read through the async proxy.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Keeps the compiler from using the value before this point.
__device__ __forceinline__ void keep_packed(uint4& value) {
  asm volatile("" : "+r"(value.x), "+r"(value.y), "+r"(value.z), "+r"(value.w));
}

#undef FI_WGMMA_TURNED_64
#undef FI_D32
#undef FI_WGMMA_128
#undef FI_D64
#undef FI_D4

}  // namespace fi
#endif
