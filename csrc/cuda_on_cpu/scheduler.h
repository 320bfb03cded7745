// A block's fibers and their schedule, __syncthreads, warp collectives, and the launch.
#pragma once

namespace emu {

struct Warp {
  uint32_t live = 0;             // existing lanes
  uint32_t arrived[2] = {0, 0};  // at the even and the odd collective
  int line[2] = {0, 0};
  const char* what[2] = {"", ""};
  size_t wgmmas = 0;                          // issued so far
  std::vector<Factors> factors;               // of the wgmma that its lanes are waiting for
  unsigned registers = 0;                     // per thread, once set
  alignas(16) unsigned char slot[2][32][64];  // each lane's value
};

struct BulkCopy {
  void* to;
  const void* from;
  uint32_t bytes;
};

struct Mbarrier {
  uint32_t arrivals = 0, missing = 0, phase = 0;  // per phase; missing in this one; completed phases
  int64_t announced = 0;                          // bytes in this phase
  std::vector<BulkCopy> copies;                   // in flight
  std::vector<unsigned> waiting;                  // fibers
};

struct Issued {  // must be equal in all warps of a warpgroup
  int line;
  uint64_t a, b;
};

struct Barrier {
  unsigned waiting = 0;
  int line = 0;
  char order[2];  // its addresses for thread sanitizer
};

struct Block {
  std::function<void()> kernel;
  dim3 grid, size;
  uint3 index{};
  char* shared = nullptr;
  size_t shared_bytes = 0;
  std::map<void*, Mbarrier> mbarriers;
  std::vector<std::vector<Issued>> issued;  // wgmma of each warpgroup
  std::vector<uint8_t> operands;            // which 16-byte units of shared memory wgmma may read (mbarrier.h)
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned> ready;
  std::vector<uint64_t> priority;  // of each warp, in schedules of odd seed
  Fiber launcher;
  unsigned ended = 0;
  Barrier barriers[kBarriers];
  uint64_t random = 1;
  bool by_priority = false;
};
inline Block block;

[[noreturn]] inline void fail(const std::string& message) {
  fprintf(stderr, "emulated kernel: %s (block %u,%u,%u)\n", message.c_str(), block.index.x, block.index.y,
          block.index.z);
  fflush(stderr);
  abort();
}

inline uint64_t next_random() {
  uint64_t& r = block.random;
  r ^= r << 13, r ^= r >> 7, r ^= r << 17;
  return r;
}

inline void pause(State state) {
  self().state = state;
  switch_fiber(self(), block.launcher);
}

inline void make_ready(Fiber& fiber) {
  fiber.state = State::ready;
  block.ready.push_back(fiber.index);
}

// Not instrumented: thread sanitizer records calls on a fiber's shadow stack, and this one never returns, so the stacks
// would grow with every block.
__attribute__((no_sanitize("thread"))) inline void enter_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &main_stack.bottom, &main_stack.bytes);
#endif
  acquire(&block.launcher);
  block.kernel();
  release(&block.launcher);
  {
    Own own;
    if (!self().open.empty() || !self().groups.empty()) fail("a thread ended with cp.async copies not waited for");
    if (!self().open_wgmmas.empty() || !self().wgmma_groups.empty()) fail("a thread ended with wgmma not waited for");
    self().state = State::done;
    ++block.ended;
  }  // closed before the last switch, because this fiber never resumes
  switch_fiber(self(), block.launcher, true);
  abort();
}

// Barrier `id`: 0 is __syncthreads, others are for `threads` of the block.
inline void sync_threads(int line, unsigned id = 0, unsigned threads = 0) {
  Own own;
  Fiber& me = self();
  Barrier& barrier = block.barriers[id];
  me.line = line, me.barrier = id;
  if (barrier.waiting == 0) barrier.line = line;
  if (barrier.line != line)
    fail("__syncthreads at line " + std::to_string(line) + " met one at line " + std::to_string(barrier.line));
  if (block.ended && id == 0)
    fail("__syncthreads at line " + std::to_string(line) + " after threads of the block returned");
  char* order = &barrier.order[me.barriers[id]++ & 1];
  release(order);
  if (++barrier.waiting == threads) {
    barrier.waiting = 0;
    for (Fiber& fiber : block.fibers)
      if (fiber.state == State::in_barrier && fiber.barrier == id) make_ready(fiber);
    block.ready.push_back(me.index);  // the last to arrive does not continue first
    pause(State::ready);
  } else {
    pause(State::in_barrier);
  }
  acquire(order);
}

// Every lane of the warp passes a value. The last to arrive calls finish(values) once. All lanes get the 32 values.
template <class V, class F>
V* collective(const V& value, unsigned mask, const char* what, int line, bool orders_memory, F finish) {
  static_assert(sizeof(V) <= 64, "a lane's slot");
  Own own;
  Fiber& me = self();
  Warp& warp = block.warps[me.warp];
  unsigned turn = me.collectives++ & 1;
  if ((mask & warp.live) != warp.live) fail(std::string(what) + ": a mask of part of the warp is not emulated");
  if (warp.arrived[turn] == 0) {
    warp.what[turn] = what;
    warp.line[turn] = line;
  } else if (warp.line[turn] != line || strcmp(warp.what[turn], what)) {
    fail(std::string(what) + " at line " + std::to_string(line) + " met " + warp.what[turn] + " at line " +
         std::to_string(warp.line[turn]) + " in one warp");
  }
  V* values = reinterpret_cast<V*>(&warp.slot[turn][0][0]);
  memcpy(values + me.lane, &value, sizeof(V));
  warp.arrived[turn] |= 1u << me.lane;
  if (orders_memory) release(&warp.live);
  if (warp.arrived[turn] == warp.live) {
    warp.arrived[turn ^ 1] = 0;
    finish(values);
    for (unsigned lane = 0; lane < 32; ++lane)
      if ((warp.live >> lane & 1) && lane != me.lane) make_ready(block.fibers[me.warp * 32 + lane]);
    block.ready.push_back(me.index);  // the last to arrive does not continue first
    pause(State::ready);
  } else {
    me.line = line;
    pause(State::in_collective);
  }
  if (orders_memory) acquire(&warp.live);
  return values;
}

template <class V>
V* collective(const V& value, unsigned mask, const char* what, int line, bool orders_memory = false) {
  return collective(value, mask, what, line, orders_memory, [](V*) {});
}

FI_UNSEEN inline unsigned take_next() {
  unsigned* ready = block.ready.data();
  const uint64_t* priority = block.priority.data();
  size_t count = block.ready.size(), at = 0;
  if (block.by_priority) {
    for (size_t i = 1; i < count; ++i)
      if (priority[ready[i] / 32] > priority[ready[at] / 32]) at = i;
  } else {
    at = next_random() % count;
  }
  unsigned index = ready[at];
  ready[at] = ready[count - 1];
  block.ready.pop_back();
  return index;
}

inline void start_fibers(unsigned count) {
  static std::vector<char*> stacks;
  while (stacks.size() < count) stacks.push_back(new_stack());
  block.fibers.assign(count, Fiber());
  block.warps.assign((count + 31) / 32, Warp());
  block.priority.assign(block.warps.size(), 0);
  block.ready.clear();
  block.mbarriers.clear();
  block.issued.assign((count + 127) / 128, {});
  block.ended = 0;
  for (Barrier& barrier : block.barriers) barrier.waiting = 0;
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.index = i, fiber.lane = i % 32, fiber.warp = i / 32;
    fiber.thread = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
    fiber.stack = stacks[i];
    unpoison(fiber.stack, kStackBytes);
#if defined(__SANITIZE_THREAD__)
    static std::vector<void*> contexts;
    while (contexts.size() <= i) contexts.push_back(__tsan_create_fiber(0));
    fiber.tsan = contexts[i];
#endif
    block.warps[fiber.warp].live |= 1u << fiber.lane;
    prepare(fiber, enter_fiber);
    block.ready.push_back(i);
  }
}

[[noreturn]] inline void fail_deadlock() {
  unsigned barrier = 0, collective = 0, mbarrier = 0;
  int line = 0;
  for (const Fiber& fiber : block.fibers) {
    barrier += fiber.state == State::in_barrier;
    collective += fiber.state == State::in_collective;
    mbarrier += fiber.state == State::in_mbarrier;
    if (fiber.state == State::in_collective) line = fiber.line;
  }
  fail("deadlock: " + std::to_string(barrier) + " threads in __syncthreads, " + std::to_string(collective) +
       " in a warp collective at line " + std::to_string(line) + ", " + std::to_string(mbarrier) +
       " waiting for an mbarrier, " + std::to_string(block.ended) + " returned");
}

inline void run_block(size_t shared_bytes) {
  unsigned count = block.size.x * block.size.y * block.size.z;
  start_fibers(count);
  block.shared = shared_bytes ? static_cast<char*>(aligned_alloc(16, (shared_bytes + 15) / 16 * 16)) : nullptr;
  block.shared_bytes = shared_bytes;
  block.operands.assign(shared_bytes / 16 + 1, 0);
  if (block.shared) memset(block.shared, 0xFF, shared_bytes);  // NaN in every format
  for (uint64_t& p : block.priority) p = next_random();
  release(&block.launcher);
  while (block.ended < count) {
    if (block.ready.empty()) {
      if (block.barriers[0].waiting < count) fail_deadlock();
      block.barriers[0].waiting = 0;
      for (Fiber& fiber : block.fibers) make_ready(fiber);
      for (uint64_t& p : block.priority) p = next_random();
      continue;
    }
    switch_fiber(block.launcher, block.fibers[take_next()]);
  }
  acquire(&block.launcher);
  for (const auto& [at, barrier] : block.mbarriers)
    if (!barrier.copies.empty()) fail("a block ended with bulk copies not waited for");
  for (const Warp& warp : block.warps)
    if (warp.wgmmas != block.issued[(&warp - &block.warps[0]) / 4].size())
      fail("a warp issued fewer wgmma than another of its warpgroup");
  unsigned registers = 0;
  for (const Warp& warp : block.warps) {
    if (warp.registers != block.warps[(&warp - &block.warps[0]) / 4 * 4].registers)
      fail("the warps of a warpgroup set different numbers of registers");
    registers += 32 * warp.registers;
  }
  if (registers > 65536) fail("a block has set more registers than a multiprocessor has");
  if (block.shared) unpoison(block.shared, shared_bytes);
  free(block.shared);
}

inline std::set<std::string> launched_kernels;
inline const char* named_limit = getenv("FI_SHARED");
inline const size_t plain_limit = named_limit ? atol(named_limit) : 166912;  // sm_80's
inline size_t shared_limit = 0;  // of the next launch: plain_limit, or sm_90's for kernels that need it

template <auto kernel>
const char* name_of() {
  return __PRETTY_FUNCTION__;
}

inline void note_launch(const char* name) {
  Own own;
  launched_kernels.insert(name);
  shared_limit = strstr(name, "hopper") ? 232448 : plain_limit;
}

// Blocks run in a rotated order, reversed in half of the schedules.
inline void launch(dim3 grid, dim3 size, size_t shared_bytes, std::function<void()> kernel) {
  Own own;
  unsigned count = size.x * size.y * size.z;
  uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (count == 0 || count > 1024 || blocks == 0 || grid.y > 65535 || grid.z > 65535 || shared_bytes > shared_limit)
    fail("a launch that a GPU would refuse: grid " + std::to_string(grid.x) + "," + std::to_string(grid.y) + "," +
         std::to_string(grid.z) + ", " + std::to_string(count) + " threads, " + std::to_string(shared_bytes) +
         " bytes of shared memory");
  const char* text = getenv("FI_SEED");
  uint64_t seed = text ? strtoull(text, nullptr, 10) : 0;
  block.random = 0x9E3779B97F4A7C15ull * (seed + 1) | 1;
  block.by_priority = seed % 2 == 1;
  block.kernel = std::move(kernel);
  block.grid = grid, block.size = size;
  block.launcher = Fiber();
#if defined(__SANITIZE_THREAD__)
  block.launcher.tsan = __tsan_get_current_fiber();
#endif
  uint64_t first = next_random() % blocks;
  bool backwards = next_random() & 1;
  for (uint64_t i = 0; i < blocks; ++i) {
    uint64_t b = (i + first) % blocks;
    if (backwards) b = blocks - 1 - b;
    block.index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
    run_block(shared_bytes);
  }
}

}  // namespace emu

// The kernels launched so far, one per line, so that tests can check that every kernel was.
extern "C" __attribute__((visibility("default"), used)) inline const char* fi_emulated_launches() {
  static std::string lines;
  lines.clear();
  for (const std::string& name : emu::launched_kernels) lines += name + "\n";
  return lines.c_str();
}

#define threadIdx (emu::self().thread)
#define blockIdx (emu::block.index)
#define blockDim (emu::block.size)
#define gridDim (emu::block.grid)
#define __syncthreads() emu::sync_threads(__LINE__)

namespace fi {
inline void sync_group(int group, int threads, int line = __builtin_LINE()) {
  emu::sync_threads(line, 1 + group, threads);
}
}  // namespace fi
