// Walks channels-last maps, `[samples, pixels, channels]`, by blocks of one sample's pixels.
//
// `P` is an op's problem: it has samples, pixels (of a sample), channels and dtype.
#pragma once

#include <algorithm>
#include <cstdint>

#include "activation/cpu.h"
#include "common/cpu_parallel.h"

namespace fi {

constexpr int64_t kBlockValues = 8192;  // 32 KiB: stays in the first cache while its channels are walked

template <class P>
int64_t block_pixels(const P& p) {
  return std::max<int64_t>(16, kBlockValues / std::max<int64_t>(1, p.channels));
}
// Of one sample.
template <class P>
int64_t blocks(const P& p) {
  return (p.pixels + block_pixels(p) - 1) / block_pixels(p);
}

// body(sample, block, begin, end) for every block of every sample; begin and end are pixels of the sample.
template <class P, class F>
void for_blocks(const P& p, int threads, F body) {
  const int64_t size = block_pixels(p), count = blocks(p);
  auto item = [&](int64_t i, int) {
    const int64_t block = i % count;
    body(i / count, block, block * size, std::min(p.pixels, (block + 1) * size));
  };
  parallel_for(p.samples * count, worth(p.samples * p.pixels * p.channels, threads), item);
}

// Of a value.
template <class P>
int64_t bytes(const P& p) {
  return p.dtype == static_cast<int64_t>(Dtype::float64) ? 8 : p.dtype == static_cast<int64_t>(Dtype::bfloat16) ? 2 : 4;
}
inline const void* moved(const void* map, int64_t values, int64_t size) {
  return map ? static_cast<const char*>(map) + values * size : nullptr;
}
inline void* moved(void* map, int64_t values, int64_t size) {
  return map ? static_cast<char*>(map) + values * size : nullptr;
}

// Whether a map of floats is written past the caches: it leaves them before anyone reads it, and its lines then need
// not be read first. Rows of `stride` values, of which `channels` from `offset` on are written, begin at a multiple of
// the widest vector.
template <class P>
bool leaves_caches(const P& p, const void* map, int64_t stride, int64_t offset) {
  constexpr int64_t kLargeMap = 8 << 20, kWidest = 64, kFloats = kWidest / sizeof(float);  // bytes, bytes, floats
  return p.dtype == static_cast<int64_t>(Dtype::float32) && p.samples * p.pixels * p.channels * 4 > kLargeMap &&
         reinterpret_cast<uintptr_t>(map) % kWidest == 0 && stride % kFloats == 0 && offset % kFloats == 0 &&
         p.channels % kFloats == 0;
}

}  // namespace fi
