// Annotations for the sanitizers: a fiber's stack, the running fiber, and the memory order of barriers.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace emu {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 512 << 10;  // these frames are larger
#else
constexpr size_t kStackBytes = 128 << 10;
#endif

// A function of the emulator's that no sanitizer looks into.
#define FI_UNSEEN __attribute__((no_sanitize("address,thread,undefined")))

// While one exists, memory accesses are the emulator's and not the kernel's; thread sanitizer ignores them.
struct Own {
#if defined(__SANITIZE_THREAD__)
  Own() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Own() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Own() {}
  ~Own() {}
#endif
};

// While one exists within an Own, accesses are the kernel's again.
struct Kernels {
#if defined(__SANITIZE_THREAD__)
  Kernels() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  ~Kernels() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
#else
  Kernels() {}
  ~Kernels() {}
#endif
};

// What a thread did before release(p) happens before what another thread does after acquire(p).
#if defined(__SANITIZE_THREAD__)
inline void release(void* p) { __tsan_release(p); }
inline void acquire(void* p) { __tsan_acquire(p); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif

// No thread may access a poisoned range (address sanitizer only).
#if defined(__SANITIZE_ADDRESS__)
inline void poison(void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

}  // namespace emu
