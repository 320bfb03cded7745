// `norm_act` on the CPU: one block of pixels at a time, vectors along the channels. Contracts in cpu.h.
#include <type_traits>

#include "norm_act/cpu_acts.h"

namespace fi::FI_ISA {
namespace {

template <class ACT>
constexpr bool kOfChannel = std::is_base_of_v<OfChannel, ACT>;

// A map's values and a channel's vectors, for `n` lanes from channel c on.
template <class D>
struct Channels {
  using V = typename Simd<D>::vec;
  using A = typename Simd<D>::scalar;
  const D *x, *addend, *out;
  V mean, scale, shift, slope;

  Channels() = default;
  Channels(const NormAct& form, const void* given_out, int64_t first, int64_t c, int64_t n) {
    x = at(form.x, first + c);
    addend = at(form.addend, first + c);
    out = at(given_out, first + c);
    mean = vector(form.mean, c, n);
    scale = vector(form.scale, c, n);
    shift = vector(form.shift, c, n);
    slope = form.slope ? vector(form.slope, c, n) : V{};
  }
  static const D* at(const void* map, int64_t offset) { return map ? static_cast<const D*>(map) + offset : nullptr; }
  static V vector(const void* values, int64_t c, int64_t n) { return load_n(static_cast<const A*>(values) + c, n); }

  // The activation's parameter: the channels' slopes, or the one number given.
  template <class ACT>
  auto parameter(A given) const {
    if constexpr (kOfChannel<ACT>) {
      return slope;
    } else {
      return given;
    }
  }
  V z(V xv, int64_t pixel, int64_t n) const {
    V value = (xv - mean) * scale + shift;
    return addend ? value + load_n(addend + pixel, n) : value;
  }
};

template <int N>
struct Vectors {
  static constexpr int count = N;
};

// f(how many vectors, first channel): N vectors side by side are taken down the pixels at once, for whole lines of
// memory at a time, then each that is left. Doubles, which serve tests, one by one.
template <class D, int N, class F>
void for_groups(int64_t channels, F f) {
  constexpr int lanes = Simd<D>::lanes;
  int64_t c = 0;
  if constexpr (sizeof(D) < 8) {
    for (; c + N * lanes <= channels; c += N * lanes) f(Vectors<N>{}, c);
  }
  for (; c < channels; c += lanes) f(Vectors<1>{}, c);
}

// The first n values of v, past the caches where that is wanted: then all of them.
template <class D, class V>
inline void put(D* to, V v, int64_t n, bool past_caches) {
  if constexpr (sizeof(D) == sizeof(float)) {
    if (past_caches) return stream(to, v);
  }
  store_n(to, v, n);
}

template <class D, class ACT, int COUNT>
void fwd(const NormActFwd& args, int64_t begin, int64_t end, int64_t c) {
  constexpr int lanes = Simd<D>::lanes;
  const int64_t channels = args.form.channels, n = COUNT > 1 ? lanes : channels - c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[COUNT];
  for (int i = 0; i < COUNT; ++i) from[i] = Channels<D>(args.form, nullptr, begin * channels, c + i * lanes, n);
  D* a = static_cast<D*>(args.a) + begin * args.stride + args.offset + c;
  for (int64_t p = 0; p < (end - begin) * channels; p += channels, a += args.stride) {
    for (int i = 0; i < COUNT; ++i) {
      const auto own = from[i].template parameter<ACT>(parameter);
      put(a + i * lanes, ACT::fwd(from[i].z(load_n(from[i].x + p, n), p, n), own), n, args.past_caches);
    }
  }
}

// Sums over at most so many pixels are taken in the arithmetic's own type before they join those in double.
constexpr int64_t kSegment = 8;

template <class D, class ACT, int COUNT>
void sums(const NormActBwd& args, int64_t begin, int64_t end, int64_t c) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = Simd<D>::lanes;
  const int64_t channels = args.form.channels, n = COUNT > 1 ? lanes : channels - c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[COUNT];
  typename Simd<D>::sums sum_dz[COUNT]{}, sum_dz_x[COUNT]{}, sum_slope[COUNT]{};
  for (int i = 0; i < COUNT; ++i) from[i] = Channels<D>(args.form, args.out, begin * channels, c + i * lanes, n);
  const D* da = static_cast<const D*>(args.da) + begin * args.stride + args.offset + c;
  D* daddend = args.daddend ? static_cast<D*>(args.daddend) + begin * channels + c : nullptr;
  for (int64_t p = 0, last = (end - begin) * channels; p < last;) {
    const int64_t until = p + kSegment * channels < last ? p + kSegment * channels : last;
    V dz_here[COUNT]{}, dz_x_here[COUNT]{}, slope_here[COUNT]{};
    for (; p < until; p += channels, da += args.stride) {
      for (int i = 0; i < COUNT; ++i) {
        const V xv = load_n(from[i].x + p, n);
        const V z = from[i].out ? load_n(from[i].out + p, n) : from[i].z(xv, p, n);
        const V upstream = load_n(da + i * lanes, n);
        const V dz = ACT::bwd(z, from[i].template parameter<ACT>(parameter), upstream);
        if (daddend) store_n(daddend + p + i * lanes, dz, n);
        if constexpr (kOfChannel<ACT>) slope_here[i] += ACT::by_slope(z, upstream);
        dz_here[i] += dz;
        dz_x_here[i] += dz * (xv - from[i].mean);
      }
    }
    for (int i = 0; i < COUNT; ++i) {
      add(sum_dz[i], dz_here[i]);
      add(sum_dz_x[i], dz_x_here[i]);
      if constexpr (kOfChannel<ACT>) add(sum_slope[i], slope_here[i]);
    }
  }
  for (int i = 0; i < COUNT; ++i) {
    store_sums(args.sums + c + i * lanes, sum_dz[i], n);
    store_sums(args.sums + channels + c + i * lanes, sum_dz_x[i], n);
    if constexpr (kOfChannel<ACT>) store_sums(args.sums + 2 * channels + c + i * lanes, sum_slope[i], n);
  }
}

template <class D, class ACT, int COUNT>
void apply(const NormActBwd& args, int64_t begin, int64_t end, int64_t c) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = Simd<D>::lanes;
  const int64_t channels = args.form.channels, n = COUNT > 1 ? lanes : channels - c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[COUNT];
  V by_dz[COUNT], by_x[COUNT], constant[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    from[i] = Channels<D>(args.form, args.out, begin * channels, c + i * lanes, n);
    by_dz[i] = Channels<D>::vector(args.by_dz, c + i * lanes, n);
    by_x[i] = Channels<D>::vector(args.by_x, c + i * lanes, n);
    constant[i] = Channels<D>::vector(args.constant, c + i * lanes, n);
  }
  const D* da = static_cast<const D*>(args.da) + begin * args.stride + args.offset + c;
  D* dx = args.dx ? static_cast<D*>(args.dx) + begin * channels + c : nullptr;
  D* daddend = args.daddend ? static_cast<D*>(args.daddend) + begin * channels + c : nullptr;
  for (int64_t p = 0; p < (end - begin) * channels; p += channels, da += args.stride) {
    for (int i = 0; i < COUNT; ++i) {
      const V xv = load_n(from[i].x + p, n);
      const V z = from[i].out ? load_n(from[i].out + p, n) : from[i].z(xv, p, n);
      const V dz = ACT::bwd(z, from[i].template parameter<ACT>(parameter), load_n(da + i * lanes, n));
      if (daddend) store_n(daddend + p + i * lanes, dz, n);
      const V from_x = by_x[i] * (xv - from[i].mean) + constant[i];
      if (dx) put(dx + p + i * lanes, by_dz[i] * dz + from_x, n, args.past_caches);
    }
  }
}

// f(D{}, ACT{}).
template <class F>
void with_types(Dtype dtype, Act act, F f) {
  auto typed = [&](auto d) { with_act<decltype(d)>(act, [&](auto chosen) { f(d, chosen); }); };
  if (dtype == Dtype::float32) typed(float{});
  if (dtype == Dtype::float64) typed(double{});
  if (dtype == Dtype::bfloat16) typed(Bf16{});
}

}  // namespace

void norm_act_fwd(const NormActFwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), 4>(args.form.channels, [&](auto vectors, int64_t c) {
      fwd<decltype(d), decltype(act), vectors.count>(args, begin, end, c);
    });
    end_stream();
  });
}

void norm_act_sums(const NormActBwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), 2>(args.form.channels, [&](auto vectors, int64_t c) {
      sums<decltype(d), decltype(act), vectors.count>(args, begin, end, c);
    });
  });
}

void norm_act_apply(const NormActBwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), 2>(args.form.channels, [&](auto vectors, int64_t c) {
      apply<decltype(d), decltype(act), vectors.count>(args, begin, end, c);
    });
    end_stream();
  });
}

}  // namespace fi::FI_ISA
