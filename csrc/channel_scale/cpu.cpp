// Entry point of `channel_scale` on the CPU: splits each sample's pixels into blocks and merges their sums in a fixed
// order, so a result does not depend on the number of threads. Returns 0.
#include "channel_scale/cpu.h"

#include <algorithm>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"

namespace fi {

struct ChannelScaleProblem {
  int64_t samples, pixels, channels;  // pixels of a sample
  int64_t dtype;
};

namespace {

constexpr int64_t kBlockValues = 16384;   // 64 KiB of floats
constexpr int64_t kLargeBytes = 8 << 20;  // a map that leaves the caches before anyone reads it
constexpr int64_t kWidest = 64;           // bytes of the widest vector

int64_t block_pixels(const ChannelScaleProblem& p) {
  return std::max<int64_t>(16, kBlockValues / std::max<int64_t>(1, p.channels));
}
int64_t blocks(const ChannelScaleProblem& p) { return (p.pixels + block_pixels(p) - 1) / block_pixels(p); }
int64_t bytes(const ChannelScaleProblem& p) {
  return p.dtype == static_cast<int64_t>(Dtype::float64) ? 8 : p.dtype == static_cast<int64_t>(Dtype::bfloat16) ? 2 : 4;
}

// Whether a map of floats is written past the caches; rows begin at a multiple of the widest vector.
bool leaves_caches(const ChannelScaleProblem& p, const void* map) {
  return p.dtype == static_cast<int64_t>(Dtype::float32) && p.samples * p.pixels * p.channels * 4 > kLargeBytes &&
         reinterpret_cast<uintptr_t>(map) % kWidest == 0 && p.channels % (kWidest / 4) == 0;
}

const char* moved(const void* map, int64_t values, const ChannelScaleProblem& p) {
  return static_cast<const char*>(map) + values * bytes(p);
}
char* moved(void* map, int64_t values, const ChannelScaleProblem& p) {
  return map ? static_cast<char*>(map) + values * bytes(p) : nullptr;
}

// body(sample, block, begin, end) for every block of every sample; begin and end are pixels of the sample.
template <class F>
void for_blocks(const ChannelScaleProblem& p, int threads, F body) {
  const int64_t size = block_pixels(p), count = blocks(p);
  auto item = [&](int64_t i, int) {
    const int64_t block = i % count;
    body(i / count, block, block * size, std::min(p.pixels, (block + 1) * size));
  };
  parallel_for(p.samples * count, worth(p.samples * p.pixels * p.channels, threads), item);
}

}  // namespace
}  // namespace fi

using namespace fi;

// da (or null) and ds [samples, channels], in double, from dp.
FI_EXPORT int fi_cpu_channel_scale_bwd(const ChannelScaleProblem* problem, const void* dp, const void* a, const void* s,
                                       void* da, double* ds, int threads) {
  const ChannelScaleProblem& p = *problem;
  const bool past_caches = da && leaves_caches(p, da);
  const int64_t count = blocks(p);
  std::vector<double> partial(p.samples * count * p.channels);
  for_blocks(p, threads, [&](int64_t sample, int64_t block, int64_t begin, int64_t end) {
    const int64_t first = sample * p.pixels * p.channels;
    const ChannelScaleBwd args{moved(dp, first, p),
                               moved(a, first, p),
                               moved(s, sample * p.channels, p),
                               moved(da, first, p),
                               &partial[(sample * count + block) * p.channels],
                               p.channels,
                               past_caches};
    FI_DISPATCH(channel_scale_bwd(args, static_cast<Dtype>(p.dtype), begin, end))
  });
  for (int64_t sample = 0; sample < p.samples; ++sample) {
    std::vector<double> sums(p.channels);
    add_blocks(&partial[sample * count * p.channels], count, sums);
    std::copy(sums.begin(), sums.end(), ds + sample * p.channels);
  }
  return 0;
}
