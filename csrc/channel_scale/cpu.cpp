// Entry point of `channel_scale` on the CPU: splits each sample's pixels into blocks and merges their sums in a fixed
// order, so a result does not depend on the number of threads. Returns 0.
#include "channel_scale/cpu.h"

#include <algorithm>
#include <vector>

#include "activation/cpu_blocks.h"
#include "activation/cpu_merge.h"

namespace fi {

struct ChannelScaleProblem {
  int64_t samples, pixels, channels;  // pixels of a sample
  int64_t dtype;
};

}  // namespace fi

using namespace fi;

// da (or null) and ds [samples, channels], in double, from dp.
FI_EXPORT int fi_cpu_channel_scale_bwd(const ChannelScaleProblem* problem, const void* dp, const void* a, const void* s,
                                       void* da, double* ds, int threads) {
  const ChannelScaleProblem& p = *problem;
  const bool past_caches = da && leaves_caches(p, da, p.channels, 0);
  const int64_t count = blocks(p), size = bytes(p);
  std::vector<double> partial(p.samples * count * p.channels);
  for_blocks(p, threads, [&](int64_t sample, int64_t block, int64_t begin, int64_t end) {
    const int64_t first = sample * p.pixels * p.channels;
    const ChannelScaleBwd args{moved(dp, first, size),
                               moved(a, first, size),
                               moved(s, sample * p.channels, size),
                               moved(da, first, size),
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
