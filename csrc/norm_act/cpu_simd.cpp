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
  auto parameter(Act act, A given) const {
    if constexpr (std::is_same_v<ACT, AnyAct<D>>) {
      return Choice<V, A>{act, given, slope};
    } else if constexpr (kOfChannel<ACT>) {
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

// The vectors that a kernel takes down the pixels side by side from channel c on, for whole lines of memory at a time:
// N, or for N = 0 as many as there are, up to kMost. Costly activations count when they run: their code would be long,
// and the loop costs little beside them. With N = 1 the last channels may fill the vector in part.
constexpr int kMost = 4;
template <class D, int N>
struct Group {
  static constexpr int lanes = Simd<D>::lanes, most = N > 0 ? N : kMost;
  int64_t c, channels;

  int count() const {
    if (N > 0) return N;
    const int64_t rest = (channels - c + lanes - 1) / lanes;
    return static_cast<int>(rest < kMost ? rest : kMost);
  }
  int64_t n(int i) const { return N > 1 ? lanes : channels - c - i * lanes; }  // channels from vector i on

  // f(i) for each vector.
  template <class F>
  inline __attribute__((always_inline)) void each(int vectors, F f) const {
    if constexpr (N > 0) {
      for (int i = 0; i < N; ++i) f(i);
    } else {
#pragma GCC unroll 1
      for (int i = 0; i < vectors; ++i) f(i);
    }
  }
};

// f(group) for groups of N vectors, then for each vector that is left.
template <class D, class ACT, int N, class F>
void for_groups(int64_t channels, F f) {
  constexpr int lanes = Simd<D>::lanes;
  int64_t c = 0;
  if constexpr (std::is_base_of_v<Costly, ACT>) {
    for (; c < channels; c += kMost * lanes) f(Group<D, 0>{c, channels});
  } else {
    for (; c + N * lanes <= channels; c += N * lanes) f(Group<D, N>{c, channels});
    for (; c < channels; c += lanes) f(Group<D, 1>{c, channels});
  }
}

// The first n values of v, past the caches where that is wanted: then all of them.
template <class D, class V>
inline void put(D* to, V v, int64_t n, bool past_caches) {
  if constexpr (sizeof(D) == sizeof(float)) {
    if (past_caches) return stream(to, v);
  }
  store_n(to, v, n);
}

template <class ACT, class D, int N>
void fwd(const NormActFwd& args, int64_t begin, int64_t end, Group<D, N> group) {
  constexpr int lanes = group.lanes, most = group.most;
  const int count = group.count();
  const int64_t channels = args.form.channels, c = group.c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[most];
  group.each(count,
             [&](int i) { from[i] = Channels<D>(args.form, nullptr, begin * channels, c + i * lanes, group.n(i)); });
  D* a = static_cast<D*>(args.a) + begin * args.stride + args.offset + c;
  for (int64_t p = 0; p < (end - begin) * channels; p += channels, a += args.stride) {
    group.each(count, [&](int i) {
      const auto own = from[i].template parameter<ACT>(args.form.act, parameter);
      put(a + i * lanes, ACT::fwd(from[i].z(load_n(from[i].x + p, group.n(i)), p, group.n(i)), own), group.n(i),
          args.past_caches);
    });
  }
}

// Sums over at most so many pixels are taken in the arithmetic's own type before they join those in double.
constexpr int64_t kSegment = 8;

template <class ACT, class D, int N>
void sums(const NormActBwd& args, int64_t begin, int64_t end, Group<D, N> group) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = group.lanes, most = group.most;
  const int count = group.count();
  const int64_t channels = args.form.channels, c = group.c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[most];
  typename Simd<D>::sums sum_dz[most]{}, sum_dz_x[most]{}, sum_slope[most]{};
  group.each(count,
             [&](int i) { from[i] = Channels<D>(args.form, args.out, begin * channels, c + i * lanes, group.n(i)); });
  const D* da = static_cast<const D*>(args.da) + begin * args.stride + args.offset + c;
  void* map = args.dx ? args.dx : args.daddend;
  D* to = map ? static_cast<D*>(map) + begin * channels + c : nullptr;
  V by_dz[most];
  group.each(count, [&](int i) {
    by_dz[i] = args.dx ? Channels<D>::vector(args.by_dz, c + i * lanes, group.n(i)) : V{} + 1;
  });
  for (int64_t p = 0, last = (end - begin) * channels; p < last;) {
    const int64_t until = p + kSegment * channels < last ? p + kSegment * channels : last;
    V dz_here[most]{}, dz_x_here[most]{}, slope_here[most]{};
    for (; p < until; p += channels, da += args.stride) {
      group.each(count, [&](int i) {
        const V xv = load_n(from[i].x + p, group.n(i));
        const V z = from[i].out ? load_n(from[i].out + p, group.n(i)) : from[i].z(xv, p, group.n(i));
        const V upstream = load_n(da + i * lanes, group.n(i));
        const V dz = ACT::bwd(z, from[i].template parameter<ACT>(args.form.act, parameter), upstream);
        if (to) store_n(to + p + i * lanes, by_dz[i] * dz, group.n(i));
        if constexpr (kOfChannel<ACT>) slope_here[i] += ACT::by_slope(z, upstream);
        dz_here[i] += dz;
        dz_x_here[i] += dz * (xv - from[i].mean);
      });
    }
    group.each(count, [&](int i) {
      add(sum_dz[i], dz_here[i]);
      add(sum_dz_x[i], dz_x_here[i]);
      if constexpr (kOfChannel<ACT>) add(sum_slope[i], slope_here[i]);
    });
  }
  group.each(count, [&](int i) {
    store_sums(args.sums + c + i * lanes, sum_dz[i], group.n(i));
    store_sums(args.sums + channels + c + i * lanes, sum_dz_x[i], group.n(i));
    if (kOfChannel<ACT> && args.form.act == Act::prelu)
      store_sums(args.sums + 2 * channels + c + i * lanes, sum_slope[i], group.n(i));
  });
}

template <class ACT, class D, int N>
void apply(const NormActBwd& args, int64_t begin, int64_t end, Group<D, N> group) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = group.lanes, most = group.most;
  const int count = group.count();
  const int64_t channels = args.form.channels, c = group.c;
  const typename Simd<D>::scalar parameter = args.form.parameter;
  Channels<D> from[most];
  V by_dz[most], by_x[most], constant[most];
  group.each(count, [&](int i) {
    from[i] = Channels<D>(args.form, args.out, begin * channels, c + i * lanes, group.n(i));
    by_dz[i] = Channels<D>::vector(args.by_dz, c + i * lanes, group.n(i));
    by_x[i] = Channels<D>::vector(args.by_x, c + i * lanes, group.n(i));
    constant[i] = Channels<D>::vector(args.constant, c + i * lanes, group.n(i));
  });
  const D* da = static_cast<const D*>(args.da) + begin * args.stride + args.offset + c;
  D* dx = args.dx ? static_cast<D*>(args.dx) + begin * channels + c : nullptr;
  D* daddend = args.daddend ? static_cast<D*>(args.daddend) + begin * channels + c : nullptr;
  for (int64_t p = 0; p < (end - begin) * channels; p += channels, da += args.stride) {
    group.each(count, [&](int i) {
      const V xv = load_n(from[i].x + p, group.n(i));
      const V z = from[i].out ? load_n(from[i].out + p, group.n(i)) : from[i].z(xv, p, group.n(i));
      const V dz =
          ACT::bwd(z, from[i].template parameter<ACT>(args.form.act, parameter), load_n(da + i * lanes, group.n(i)));
      if (daddend) store_n(daddend + p + i * lanes, dz, group.n(i));
      const V from_x = by_x[i] * (xv - from[i].mean) + constant[i];
      if (dx) put(dx + p + i * lanes, by_dz[i] * dz + from_x, group.n(i), args.past_caches);
    });
  }
}

// f(D{}, ACT{}). One kernel serves all activations where it need not be fast, and of doubles, which serve tests.
template <class F>
void with_types(Dtype dtype, Act act, F f) {
  auto typed = [&](auto d) {
    if constexpr (kGeneralOnly) {
      f(d, AnyAct<decltype(d)>{});
    } else {
      with_act<decltype(d)>(act, [&](auto chosen) { f(d, chosen); });
    }
  };
  if (dtype == Dtype::float32) typed(float{});
  if (dtype == Dtype::float64) f(double{}, AnyAct<double>{});
  if (dtype == Dtype::bfloat16) typed(Bf16{});
}

}  // namespace

void norm_act_fwd(const NormActFwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), decltype(act), 4>(args.form.channels,
                                              [&](auto group) { fwd<decltype(act)>(args, begin, end, group); });
    end_stream();
  });
}

void norm_act_sums(const NormActBwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), decltype(act), 2>(args.form.channels,
                                              [&](auto group) { sums<decltype(act)>(args, begin, end, group); });
  });
}

void norm_act_apply(const NormActBwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_types(dtype, args.form.act, [&](auto d, auto act) {
    for_groups<decltype(d), decltype(act), 2>(args.form.channels,
                                              [&](auto group) { apply<decltype(act)>(args, begin, end, group); });
    end_stream();
  });
}

}  // namespace fi::FI_ISA
