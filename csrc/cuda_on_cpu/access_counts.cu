// Counts the reads and writes of each byte of memory by the kernels that it is linked with. They are compiled with
// -fsanitize=thread, whose calls at every access come here instead of thread sanitizer's library. The emulator's own
// types are compiled without it (-U__SANITIZE_THREAD__). Counts saturate at 255.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define COUNTING extern "C" __attribute__((visibility("default"), no_sanitize("thread")))

namespace {

constexpr uintptr_t kPageBytes = 4096, kPages = 1 << 14;

struct Page {
  uintptr_t number;  // of the address; 0 if unused
  uint8_t reads[kPageBytes], writes[kPageBytes];
};

Page pages[kPages];

// The page's slot: the first free one from its hash on.
__attribute__((no_sanitize("thread"))) Page& page_of(uintptr_t address) {
  uintptr_t number = address / kPageBytes;
  for (uintptr_t tried = 0; tried < kPages; ++tried) {
    Page& page = pages[(number + tried) % kPages];
    if (page.number == number) return page;
    if (page.number) continue;
    page.number = number;
    return page;
  }
  fprintf(stderr, "access_counts: more pages than it has room for\n");
  abort();
}

__attribute__((no_sanitize("thread"))) void count(const void* p, uintptr_t bytes, bool writes) {
  for (uintptr_t i = 0, address = reinterpret_cast<uintptr_t>(p); i < bytes; ++i, ++address) {
    Page& page = page_of(address);
    uint8_t& times = (writes ? page.writes : page.reads)[address % kPageBytes];
    if (times < 255) ++times;
  }
}

}  // namespace

#define COUNT_SIZE(bytes)                                                         \
  COUNTING void __tsan_read##bytes(void* p) { count(p, bytes, false); }           \
  COUNTING void __tsan_write##bytes(void* p) { count(p, bytes, true); }           \
  COUNTING void __tsan_unaligned_read##bytes(void* p) { count(p, bytes, false); } \
  COUNTING void __tsan_unaligned_write##bytes(void* p) { count(p, bytes, true); }
COUNT_SIZE(1)
COUNT_SIZE(2)
COUNT_SIZE(4)
COUNT_SIZE(8)
COUNT_SIZE(16)
COUNTING void __tsan_read_range(void* p, uintptr_t bytes) { count(p, bytes, false); }
COUNTING void __tsan_write_range(void* p, uintptr_t bytes) { count(p, bytes, true); }
COUNTING void __tsan_vptr_update(void*, void*) {}
COUNTING void __tsan_vptr_read(void*) {}
COUNTING void __tsan_func_entry(void*) {}
COUNTING void __tsan_func_exit(void*) {}
COUNTING void __tsan_init() {}

COUNTING void fi_forget_accesses() {
  for (Page& page : pages)
    if (page.number) memset(&page, 0, sizeof(page));
}

// The least and most reads, and the least and most writes, of a byte in the range.
COUNTING void fi_accesses(const void* p, int64_t bytes, int* found) {
  found[0] = found[2] = 255, found[1] = found[3] = 0;
  for (uintptr_t at = reinterpret_cast<uintptr_t>(p), end = at + bytes; at < end; ++at) {
    const Page& page = page_of(at);
    int times[2] = {page.reads[at % kPageBytes], page.writes[at % kPageBytes]};
    for (int i = 0; i < 2; ++i) {
      if (times[i] < found[2 * i]) found[2 * i] = times[i];
      if (times[i] > found[2 * i + 1]) found[2 * i + 1] = times[i];
    }
  }
}
