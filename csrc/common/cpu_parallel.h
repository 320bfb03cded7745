// Threads of the CPU kernels: the workers of the OpenMP runtime that the caller already runs, never a second pool.
#pragma once

#include <cstdint>

namespace fi {

// Calls work(context, item, worker) for every item in [0, items), on up to `threads` threads; worker < threads tells
// them apart. Items are handed out as threads come free, so a result must not depend on which worker did what.
void parallel(int64_t items, int threads, void (*work)(void*, int64_t item, int worker), void* context);

// Threads that a pass over so many values is worth: waking one costs about as much as 2^15 of them.
inline int worth(int64_t values, int threads) {
  const int64_t most = 1 + (values >> 15);
  return most < threads ? static_cast<int>(most) : threads;
}

// The same for a callable taken by reference.
template <class F>
void parallel_for(int64_t items, int threads, F& body) {
  parallel(items, threads, [](void* f, int64_t item, int worker) { (*static_cast<F*>(f))(item, worker); }, &body);
}

}  // namespace fi
