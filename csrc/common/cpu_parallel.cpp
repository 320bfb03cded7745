#include "common/cpu_parallel.h"

#include <atomic>
#include <thread>
#include <vector>

#include "common/cpu_isa.h"

namespace fi {
namespace {

// The entry that compilers emit for `#pragma omp parallel`; libgomp, libomp and libiomp5 all have it.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<GompParallel> gomp_parallel{nullptr};

struct Region {
  int64_t items;
  void (*work)(void*, int64_t, int);
  void* context;
  std::atomic<int64_t> next_item{0};
  std::atomic<int> next_worker{0};

  void run() {
    const int worker = next_worker++;
    for (int64_t item; (item = next_item++) < items;) work(context, item, worker);
  }
};

}  // namespace

void parallel(int64_t items, int threads, void (*work)(void*, int64_t, int), void* context) {
  Region region{items, work, context};
  if (threads > items) threads = static_cast<int>(items);
  if (threads <= 1) return region.run();
  if (GompParallel fork = gomp_parallel.load()) {
    fork([](void* r) { static_cast<Region*>(r)->run(); }, &region, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back([&region] { region.run(); });
  region.run();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace fi

// Makes every kernel run on the caller's OpenMP threads: `entry` is its GOMP_parallel. Two runtimes side by side would
// spin against each other. Without it each call starts threads of its own.
FI_EXPORT void fi_cpu_use_openmp(void* entry) { fi::gomp_parallel = reinterpret_cast<fi::GompParallel>(entry); }
