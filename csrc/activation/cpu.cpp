// Entry points of `activation` on the CPU: splits the pixels into blocks, and merges their sums in a fixed order, so a
// result does not depend on the number of threads. Every function returns 0; `dtype` is that of the maps.
#include "activation/cpu.h"

#include <algorithm>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"

namespace fi {
namespace {

// A block of about 32 KiB stays in the first cache while its channels are walked.
int64_t block_pixels(int64_t channels) { return std::max<int64_t>(16, 8192 / std::max<int64_t>(1, channels)); }

template <class F>
void for_blocks(int64_t pixels, int64_t channels, int threads, F body) {
  const int64_t size = block_pixels(channels);
  auto item = [&](int64_t block, int) { body(block, block * size, std::min(pixels, (block + 1) * size)); };
  parallel_for((pixels + size - 1) / size, worth(pixels * channels, threads), item);
}

int64_t block_count(int64_t pixels, int64_t channels) {
  return (pixels + block_pixels(channels) - 1) / block_pixels(channels);
}

template <class A>
void bwd(ActivationBwd args, Dtype dtype, int64_t pixels, A* dshift, A* dscale, int threads) {
  const int64_t channels = args.source.channels;
  std::vector<double> partial(dshift ? block_count(pixels, channels) * 2 * channels : 0);
  args.sums = dshift ? partial.data() : nullptr;
  for_blocks(pixels, channels, threads, [&](int64_t block, int64_t begin, int64_t end) {
    FI_DISPATCH(activation_bwd(args, dtype, block, begin, end))
  });
  if (dshift) merge_sums(partial, channels, dshift, dscale);
}

template <class A>
void stats(BatchStats args, Dtype dtype, int64_t pixels, A* mean, A* var, int threads) {
  std::vector<double> partial(block_count(pixels, args.channels) * 3 * args.channels);
  args.partial = partial.data();
  for_blocks(pixels, args.channels, threads, [&](int64_t block, int64_t begin, int64_t end) {
    FI_DISPATCH(batch_stats(args, dtype, block, begin, end))
  });
  const int64_t size = block_pixels(args.channels);
  auto count = [&](int64_t block) { return std::min(size, pixels - block * size); };
  merge_stats(partial, count, args.channels, mean, var);
}

}  // namespace
}  // namespace fi

using namespace fi;

// a [pixels, sum of channels] of the sources, concatenated.
FI_EXPORT int fi_cpu_activation_fwd(const Source* sources, int count, void* a, int64_t pixels, int dtype, int threads) {
  int64_t channels = 0;
  for (int i = 0; i < count; ++i) channels += sources[i].channels;
  for_blocks(pixels, channels, threads, [&](int64_t, int64_t begin, int64_t end) {
    int64_t offset = 0;
    for (int i = 0; i < count; ++i) {
      const ActivationFwd args{sources[i], a, channels, offset};
      FI_DISPATCH(activation_fwd(args, static_cast<Dtype>(dtype), begin, end))
      offset += sources[i].channels;
    }
  });
  return 0;
}

// dx, dshift = sum dz and dscale = sum dz * (x - mean) of one source, whose channels start at `offset` of da's
// `stride`. dx may be null; dshift and dscale, in the wide dtype, may be null together.
FI_EXPORT int fi_cpu_activation_bwd(const Source* source, const void* da, int64_t stride, int64_t offset, void* dx,
                                    void* dshift, void* dscale, int64_t pixels, int dtype, int threads) {
  const ActivationBwd args{*source, da, stride, offset, dx, nullptr};
  const Dtype d = static_cast<Dtype>(dtype);
  if (d == Dtype::float64) {
    bwd(args, d, pixels, static_cast<double*>(dshift), static_cast<double*>(dscale), threads);
  } else {
    bwd(args, d, pixels, static_cast<float*>(dshift), static_cast<float*>(dscale), threads);
  }
  return 0;
}

// Mean and biased variance of each channel of y [pixels, channels], in the wide dtype; pixels must be positive.
FI_EXPORT int fi_cpu_batch_stats(const void* y, int64_t pixels, int64_t channels, void* mean, void* var, int dtype,
                                 int threads) {
  const BatchStats args{y, channels, nullptr};
  const Dtype d = static_cast<Dtype>(dtype);
  if (d == Dtype::float64) {
    stats(args, d, pixels, static_cast<double*>(mean), static_cast<double*>(var), threads);
  } else {
    stats(args, d, pixels, static_cast<float*>(mean), static_cast<float*>(var), threads);
  }
  return 0;
}
