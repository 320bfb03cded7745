// `channel_scale` on the CPU: one block of pixels at a time, vectors along the channels. Contracts in cpu.h.
#include <type_traits>

#include "channel_scale/cpu.h"
#include "common/cpu_vec.h"

namespace fi::FI_ISA {
namespace {

constexpr int kCount = 4;        // vectors side by side: whole lines of memory, as in activation/cpu_simd.cpp
constexpr int64_t kSegment = 8;  // pixels summed in the arithmetic's own type before they join the sums in double

// f(number of vectors, first channel): kCount side by side, then each that is left.
template <class D, class F>
void for_groups(int64_t channels, F f) {
  constexpr int lanes = Simd<D>::lanes;
  int64_t c = 0;
  for (; c + kCount * lanes <= channels; c += kCount * lanes) f(std::integral_constant<int, kCount>{}, c);
  for (; c < channels; c += lanes) f(std::integral_constant<int, 1>{}, c);
}

template <class D, class V>
inline void put(D* to, V v, int64_t n, bool past_caches) {
  if constexpr (sizeof(D) == sizeof(float)) {
    if (past_caches) return stream(to, v);
  }
  store_n(to, v, n);
}

template <class D, int COUNT>
void bwd(const ChannelScaleBwd& args, int64_t begin, int64_t end, int64_t c) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = Simd<D>::lanes;
  const int64_t n = COUNT > 1 ? lanes : args.channels - c;
  V s[COUNT];
  typename Simd<D>::sums sums[COUNT]{};
  for (int i = 0; i < COUNT; ++i) s[i] = load_n(static_cast<const D*>(args.s) + c + i * lanes, n);
  for (int64_t pixel = begin; pixel < end;) {
    const int64_t until = pixel + kSegment < end ? pixel + kSegment : end;
    V here[COUNT]{};
    for (; pixel < until; ++pixel) {
      const int64_t at = pixel * args.channels + c;
      for (int i = 0; i < COUNT; ++i) {
        const V dp = load_n(static_cast<const D*>(args.dp) + at + i * lanes, n);
        here[i] += dp * load_n(static_cast<const D*>(args.a) + at + i * lanes, n);
        if (args.da) put(static_cast<D*>(args.da) + at + i * lanes, dp * s[i], n, args.past_caches);
      }
    }
    for (int i = 0; i < COUNT; ++i) add(sums[i], here[i]);
  }
  for (int i = 0; i < COUNT; ++i) store_sums(args.sums + c + i * lanes, sums[i], n);
}

template <class F>
void with_dtype(Dtype dtype, F f) {
  if (dtype == Dtype::float32) f(float{});
  if (dtype == Dtype::float64) f(double{});
  if (dtype == Dtype::bfloat16) f(Bf16{});
}

}  // namespace

void channel_scale_bwd(const ChannelScaleBwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_dtype(dtype, [&](auto d) {
    for_groups<decltype(d)>(
        args.channels, [&](auto count, int64_t c) { bwd<decltype(d), decltype(count)::value>(args, begin, end, c); });
  });
  end_stream();
}

}  // namespace fi::FI_ISA
