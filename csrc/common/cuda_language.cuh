// The CUDA C++ language for all kernels: by nvcc for a GPU or, with FI_EMULATED, by g++ for the CPU.
#pragma once

#ifdef FI_EMULATED
#include "../cuda_on_cpu/cuda_on_cpu.h"
#define FI_DYNAMIC_SHARED(name) char* name = emu::block.shared
#define FI_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emu::note_launch(emu::name_of<kernel>()), emu::launch(grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); })
namespace fi {
constexpr int kSharedGap = 32;  // poisoned bytes after each part of shared memory
inline void poison_shared(void* p, size_t bytes) { emu::poison(p, bytes); }
inline void unpoison_shared(void* p, size_t bytes) { emu::unpoison(p, bytes); }
}  // namespace fi
#else
#include <cuda_runtime.h>

#include <cstdint>
#define FI_DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#define FI_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
namespace fi {
constexpr int kSharedGap = 0;
__device__ inline void poison_shared(void*, size_t) {}
__device__ inline void unpoison_shared(void*, size_t) {}
}  // namespace fi
#endif

#define FI_EXPORT extern "C" __attribute__((visibility("default")))

namespace fi {

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

// Bytes that a part of `bytes` takes in a SharedArena.
__host__ __device__ constexpr int shared_part(int bytes) { return round_up(bytes, 16) + kSharedGap; }

// Allocates a block's dynamic shared memory in parts, each 16-byte aligned.
struct SharedArena {
  char* at;

  // After a barrier a second arena may reuse the same memory.
  __device__ SharedArena(char* memory, int total_bytes) : at(memory) { unpoison_shared(memory, total_bytes); }

  template <class T>
  __device__ T* take(int count) {
    char* part = at;
    int bytes = count * int(sizeof(T));
    at += shared_part(bytes);
    poison_shared(part + bytes, at - part - bytes);
    return reinterpret_cast<T*>(part);
  }
};

}  // namespace fi
