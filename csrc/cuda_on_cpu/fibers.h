// A fiber: its own stack, and a switch that saves and restores the callee-saved registers of x86-64.
#pragma once
#include <sys/mman.h>

extern "C" void fi_emu_switch(void** save, void* to);
asm(".text\n"
    ".weak fi_emu_switch\n"
    ".type fi_emu_switch,@function\n"
    "fi_emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n"
    "  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");

namespace emu {

struct Copy {  // one cp.async in flight; a null `from` writes zeros
  void* to;
  const void* from;
};

struct Factors {  // of a wgmma, for one warp
  float left[16][16], right[128][16];
};

struct Wgmma {  // one in flight, for one thread
  float* d;
  uint64_t a, b;  // descriptors
  void (*read)(const Wgmma&, Factors&);
};

constexpr unsigned kBarriers = 4;  // __syncthreads, and barriers of groups of threads

enum class State { ready, in_barrier, in_collective, in_mbarrier, done };

struct Fiber {
  uint3 thread{};
  unsigned index = 0, lane = 0, warp = 0;
  unsigned collectives = 0, barriers[kBarriers] = {};  // reached so far
  unsigned barrier = 0;                                // the barrier that it waits for
  State state = State::ready;
  int line = 0;
  std::vector<Copy> open;                 // cp.async not committed yet
  std::vector<std::vector<Copy>> groups;  // committed, not waited for, oldest first
  std::vector<Wgmma> open_wgmmas;
  std::vector<std::vector<Wgmma>> wgmma_groups;  // as groups
  std::map<float*, std::vector<float>> sums;     // of accumulators in flight, which hold NaN until then
  std::vector<void*> zeroed;                     // operands of wgmma, written since the last proxy fence
  bool fenced = false;                           // since the last commit
  char* stack = nullptr;
  void* sp = nullptr;
  void* asan = nullptr;
  void* tsan = nullptr;
};

struct MainStack {  // of the launching thread, for address sanitizer
  const void* bottom = nullptr;
  size_t bytes = 0;
};

inline MainStack main_stack;
inline Fiber* running = nullptr;

__attribute__((no_sanitize("thread"), noinline)) inline Fiber& self() { return *running; }

inline char* new_stack() {
  void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return static_cast<char*>(p);
}

// Prepares the stack so that the first switch to the fiber enters `entry`.
inline void prepare(Fiber& fiber, void (*entry)()) {
  void** sp = reinterpret_cast<void**>(fiber.stack + kStackBytes - 64);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  fiber.sp = sp;
}

// Switches from `from` to `to`. Thread sanitizer switches before the stack does, hence no_sanitize.
__attribute__((no_sanitize("thread"))) inline void switch_fiber(Fiber& from, Fiber& to, bool from_ends = false) {
  (void)from_ends;
  running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.asan, to.stack ? to.stack : main_stack.bottom,
                                 to.stack ? kStackBytes : main_stack.bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  fi_emu_switch(&from.sp, to.sp);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.asan, from.stack ? nullptr : &main_stack.bottom,
                                  from.stack ? nullptr : &main_stack.bytes);
#endif
}

}  // namespace emu
