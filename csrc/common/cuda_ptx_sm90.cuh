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

// Writes 16 bytes of zeros to an operand of wgmma. wgmma sees them after async_proxy_fence and a barrier.
__device__ __forceinline__ void zero_operand(void* to) { *static_cast<uint4*>(to) = make_uint4(0, 0, 0, 0); }

// Makes this thread's earlier writes to shared memory visible to copy engines and wgmma. Other threads' wgmma also need
// a barrier.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Changes the registers per thread of this warpgroup; more: wait until other warpgroups have given enough.
template <int registers, bool more>
__device__ __forceinline__ void set_registers() {
  if constexpr (more)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
  else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// Orders this thread's accesses to accumulators before the following wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `pending` committed groups are in flight.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// The descriptor of an operand without swizzle. It consists of core matrices: eight rows of 16 bytes, 128 contiguous
// bytes, where a row is eight values along k of one m or n (K-major), or eight values along m or n of one k (MN-major).
// Both offsets are in bytes, multiples of 16, and so is the address.
//   along_k   between adjacent core matrices along k        (the manual's leading dimension byte offset)
//   along_mn  between adjacent core matrices along m or n   (the manual's stride dimension byte offset)
// An operand `bytes` further on has the descriptor plus bytes / 16.
__device__ __forceinline__ uint64_t descriptor(const void* operand, uint32_t along_k, uint32_t along_mn) {
  return uint64_t((shared_address(operand) & 0x3FFFF) >> 4) | uint64_t(along_k >> 4) << 16 |
         uint64_t(along_mn >> 4) << 32;
}

#define FI_D4(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define FI_D64                                                                                                   \
  FI_D4(0), FI_D4(1), FI_D4(2), FI_D4(3), FI_D4(4), FI_D4(5), FI_D4(6), FI_D4(7), FI_D4(8), FI_D4(9), FI_D4(10), \
      FI_D4(11), FI_D4(12), FI_D4(13), FI_D4(14), FI_D4(15)
#define FI_WGMMA(type, mn_major)                                                                                      \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                           \
               " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," \
               "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
               "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63},%64,%65,1,1,1,%66,%66;"                              \
               : FI_D64                                                                                               \
               : "l"(a), "l"(b), "n"(mn_major))

// d += a b, asynchronous: 64x128 += 64x16 16x128 with float32 sums, both factors in shared memory by their descriptors.
// mn_major: of both. A warp gets 16 rows of d in the layout of mma.sync's D; d[n] holds columns 8 n ... 8 n + 7. d must
// not be accessed until wait_group has covered the group.
template <class T, bool mn_major>
__device__ __forceinline__ void wgmma_m64n128k16(float (&d)[16][4], uint64_t a, uint64_t b) {
  if constexpr (std::is_same<T, __half>::value) {
    FI_WGMMA("f16", int(mn_major));
  } else {
    FI_WGMMA("bf16", int(mn_major));
  }
}

// Call after the last wait: keeps the compiler from moving reads of d before it.
__device__ __forceinline__ void wgmma_settled(float (&d)[16][4]) { asm volatile("" : FI_D64::"memory"); }

#undef FI_WGMMA
#undef FI_D64
#undef FI_D4

}  // namespace fi
#endif
