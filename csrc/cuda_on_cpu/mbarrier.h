// mbarriers in shared memory, and bulk copies that report to them. A copy's destination holds NaN until a thread waits
// for its phase. The first thread to wait makes the copies, so that thread sanitizer sees a writer. Stops on: an
// uninitialised barrier, too many arrivals, addresses and sizes that are not multiples of 16, and (scheduler.h) copies
// that no thread waited for.
#pragma once

namespace emu {

// Shared memory starts at an address that is 16-byte aligned and no more, as every part of it may be.
constexpr uint32_t kSharedBase = 0x410;

inline void wake(std::vector<unsigned>& fibers) {
  for (unsigned index : fibers) make_ready(block.fibers[index]);
  fibers.clear();
}

// The barrier at `p`. Counts as a read of its eight bytes.
inline Mbarrier& mbarrier_at(uint64_t* p, const char* what) {
  if (*static_cast<volatile uint64_t*>(p) == ~0ull) fail(std::string(what) + " of an mbarrier not initialised");
  Own own;
  auto found = block.mbarriers.find(p);
  if (found == block.mbarriers.end()) fail(std::string(what) + " of an mbarrier not initialised");
  return found->second;
}

inline int64_t bytes_under_way(const Mbarrier& barrier) {
  int64_t bytes = 0;
  for (const BulkCopy& copy : barrier.copies) bytes += copy.bytes;
  return bytes;
}

// Whether the phase completes once the copies in flight have landed.
inline bool may_complete(const Mbarrier& barrier) {
  return barrier.missing == 0 && barrier.announced == bytes_under_way(barrier);
}

inline void complete(Mbarrier& barrier) {
  ++barrier.phase;
  barrier.missing = barrier.arrivals;
  barrier.announced = 0;
  wake(barrier.waiting);
}

// After an arrival or a copy: ends the phase, or wakes the waiting threads to make the copies.
inline void look_at(Mbarrier& barrier) {
  if (!may_complete(barrier)) return;
  if (barrier.copies.empty())
    complete(barrier);
  else
    wake(barrier.waiting);
}

inline void arrive(uint64_t* p, uint32_t bytes) {
  Mbarrier& barrier = mbarrier_at(p, "arrival");
  Own own;
  if (barrier.missing == 0) fail("more arrivals at an mbarrier than its phase takes");
  release(&barrier);
  barrier.announced += bytes;
  --barrier.missing;
  look_at(barrier);
}

// Whether wgmma may read a 16-byte unit of shared memory: once a bulk copy has brought it, or a thread has written zeros
// and fenced them.
constexpr uint8_t kUnknown = 0, kShown = 1;

inline void mark_operands(void* to, uint32_t bytes, uint8_t what) {
  size_t at = static_cast<char*>(to) - block.shared;
  for (size_t piece = at / 16; piece < (at + bytes) / 16; ++piece) block.operands[piece] = what;
}

}  // namespace emu

namespace fi {

inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const char*>(p) - emu::block.shared) + emu::kSharedBase;
}

inline void mbarrier_init(uint64_t* p, uint32_t arrivals) {
  if (reinterpret_cast<uintptr_t>(p) % 8) emu::fail("an mbarrier is not 8-byte aligned");
  *static_cast<volatile uint64_t*>(p) = arrivals;
  emu::Own own;
  emu::Mbarrier& barrier = emu::block.mbarriers[p];
  barrier.arrivals = barrier.missing = arrivals;
}

inline void mbarrier_init_fence() {}

inline void mbarrier_arrive(uint64_t* p) { emu::arrive(p, 0); }

inline void mbarrier_arrive_expect(uint64_t* p, uint32_t bytes) { emu::arrive(p, bytes); }

// Waits until the phase of that parity is complete. The phase before a barrier's first one counts as complete.
inline void mbarrier_wait(uint64_t* p, uint32_t parity) {
  emu::Mbarrier& barrier = emu::mbarrier_at(p, "wait");
  while (true) {
    std::vector<emu::BulkCopy> due;
    {
      emu::Own own;
      emu::acquire(&barrier);
      if ((barrier.phase & 1) != parity) return;
      if (!emu::may_complete(barrier)) {
        barrier.waiting.push_back(emu::self().index);
        emu::pause(emu::State::in_mbarrier);
        continue;
      }
      due = barrier.copies;
    }
    for (const emu::BulkCopy& copy : due) memcpy(copy.to, copy.from, copy.bytes);
    emu::Own own;
    for (const emu::BulkCopy& copy : due) emu::mark_operands(copy.to, copy.bytes, emu::kShown);
    due = {};
    barrier.copies.clear();
    emu::release(&barrier);
    emu::complete(barrier);
  }
}

// Stays unknown to wgmma until the thread's proxy fence.
inline void zero_operand(void* to) {
  if (reinterpret_cast<uintptr_t>(to) % 16) emu::fail("an operand of wgmma is not 16-byte aligned");
  for (int i = 0; i < 4; ++i) static_cast<volatile uint32_t*>(to)[i] = 0;
  emu::Own own;
  emu::mark_operands(to, 16, emu::kUnknown);
  emu::self().zeroed.push_back(to);
}

inline void async_proxy_fence() {
  emu::Own own;
  for (void* to : emu::self().zeroed) emu::mark_operands(to, 16, emu::kShown);
  emu::self().zeroed.clear();
}

inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* p) {
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16 || bytes == 0)
    emu::fail("a bulk copy's addresses and size must be multiples of 16");
  emu::Mbarrier& barrier = emu::mbarrier_at(p, "bulk copy");
  for (uint32_t i = 0; i < bytes / 4; ++i) static_cast<volatile uint32_t*>(to)[i] = ~0u;
  emu::Own own;
  emu::mark_operands(to, bytes, emu::kUnknown);
  emu::release(&barrier);
  barrier.copies.push_back({to, from, bytes});
  emu::look_at(barrier);
}

}  // namespace fi
