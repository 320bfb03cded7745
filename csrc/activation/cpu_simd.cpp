// `activation` on the CPU: one block of pixels at a time, vectors along the channels. Contracts in cpu.h.
#include <limits>

#include "activation/cpu.h"
#include "common/cpu_vec.h"

namespace fi::FI_ISA {
namespace {

// The vectors per channel of one source, loaded for lanes [c, c + n): the identity where it has none.
template <class D>
struct Affine {
  using V = typename Simd<D>::vec;
  using A = typename Simd<D>::scalar;
  V mean{}, scale{}, shift{};

  Affine() = default;
  Affine(const Source& s, int64_t c, int64_t n) : scale(A(1) - V{}) {
    if (!s.mean) return;
    mean = load_n(static_cast<const A*>(s.mean) + c, n);
    scale = load_n(static_cast<const A*>(s.scale) + c, n);
    shift = load_n(static_cast<const A*>(s.shift) + c, n);
  }
  V operator()(V x) const { return (x - mean) * scale + shift; }
};

// Four vectors side by side are taken down the pixels at once: one at a time would read the map a line here and a line
// there, which takes statistics of 64 channels 2.9 times as long. Backward has registers for two.
template <int N>
struct Vectors {
  static constexpr int count = N;
};

// f(how many vectors, first channel) for every N, then for each that is left.
template <class D, int N, class F>
void for_groups(int64_t channels, F f) {
  constexpr int lanes = Simd<D>::lanes;
  int64_t c = 0;
  for (; c + N * lanes <= channels; c += N * lanes) f(Vectors<N>{}, c);
  for (; c < channels; c += lanes) f(Vectors<1>{}, c);
}

// ReLU is a floor known at run time.
template <class D, bool AFFINE, bool ADDEND, int COUNT>
void fwd(const ActivationFwd& args, int64_t begin, int64_t end, int64_t c) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = Simd<D>::lanes;
  const Source& s = args.source;
  const int64_t n = COUNT > 1 ? lanes : s.channels - c;
  const V floor = (s.relu ? 0 : -std::numeric_limits<typename Simd<D>::scalar>::infinity()) - V{};
  Affine<D> affine[COUNT];
  for (int i = 0; i < COUNT; ++i) affine[i] = Affine<D>(s, c + i * lanes, n);
  const D* x = static_cast<const D*>(s.x) + begin * s.channels + c;
  const D* addend = ADDEND ? static_cast<const D*>(s.addend) + begin * s.channels + c : nullptr;
  D* a = static_cast<D*>(args.a) + begin * args.stride + args.offset + c;
  for (int64_t p = begin; p < end; ++p, x += s.channels, a += args.stride) {
    for (int i = 0; i < COUNT; ++i) {
      V v = load_n(x + i * lanes, n);
      if (AFFINE) v = affine[i](v);
      v = at_least(floor, v);
      if (ADDEND) v += load_n(addend + (p - begin) * s.channels + i * lanes, n);
      store_n(a + i * lanes, v, n);
    }
  }
}

template <class D, bool RELU, bool SUMS, int COUNT>
void bwd(const ActivationBwd& args, int64_t block, int64_t begin, int64_t end, int64_t c) {
  using V = typename Simd<D>::vec;
  constexpr int lanes = Simd<D>::lanes;
  const Source& s = args.source;
  const int64_t n = COUNT > 1 ? lanes : s.channels - c;
  Affine<D> affine[COUNT];
  for (int i = 0; i < COUNT; ++i) affine[i] = Affine<D>(s, c + i * lanes, n);
  const D* x = static_cast<const D*>(s.x) + begin * s.channels + c;
  const D* da = static_cast<const D*>(args.da) + begin * args.stride + args.offset + c;
  D* dx = args.dx ? static_cast<D*>(args.dx) + begin * s.channels + c : nullptr;
  typename Simd<D>::sums sum_dz[COUNT]{}, sum_dz_x[COUNT]{};
  for (int64_t p = begin; p < end; ++p, x += s.channels, da += args.stride) {
    for (int i = 0; i < COUNT; ++i) {
      V dz = load_n(da + i * lanes, n);
      if (RELU || SUMS) {
        const V xv = load_n(x + i * lanes, n);
        if (RELU) dz = gate(affine[i](xv), dz);
        if (SUMS) add_product(sum_dz_x[i], dz, xv - affine[i].mean);
      }
      if (SUMS) add(sum_dz[i], dz);
      if (dx) store_n(dx + (p - begin) * s.channels + i * lanes, dz * affine[i].scale, n);
    }
  }
  for (int i = 0; SUMS && i < COUNT; ++i) {
    double* sums = args.sums + block * 2 * s.channels + c + i * lanes;
    store_sums(sums, sum_dz[i], n);
    store_sums(sums + s.channels, sum_dz_x[i], n);
  }
}

// Values are taken relative to the block's first, so a mean far from zero costs no precision.
template <class D, int COUNT>
void stats(const BatchStats& args, int64_t block, int64_t begin, int64_t end, int64_t c) {
  constexpr int lanes = Simd<D>::lanes;
  const int64_t n = COUNT > 1 ? lanes : args.channels - c;
  const D* y = static_cast<const D*>(args.y) + begin * args.channels + c;
  typename Simd<D>::sums offset[COUNT], sum[COUNT]{}, squares[COUNT]{};
  for (int i = 0; i < COUNT; ++i) offset[i] = halves(load_n(y + i * lanes, n));
  for (int64_t p = begin; p < end; ++p, y += args.channels) {
    for (int i = 0; i < COUNT; ++i) add_moments(sum[i], squares[i], load_n(y + i * lanes, n), offset[i]);
  }
  for (int i = 0; i < COUNT; ++i) {
    double* out = args.partial + block * 3 * args.channels + c + i * lanes;
    store_sums(out, offset[i], n);
    store_sums(out + args.channels, sum[i], n);
    store_sums(out + 2 * args.channels, squares[i], n);
  }
}

// Turns run-time flags into template arguments: with_flags(f, a, b) calls f(true_type or false_type, ...).
struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};
template <class F>
void choose(bool flag, F f) {
  flag ? f(Yes{}) : f(No{});
}
template <class F>
void with_dtype(Dtype dtype, F f) {
  if (dtype == Dtype::float32) f(float{});
  if (dtype == Dtype::float64) f(double{});
  if (dtype == Dtype::bfloat16) f(Bf16{});
}

}  // namespace

void activation_fwd(const ActivationFwd& args, Dtype dtype, int64_t begin, int64_t end) {
  with_dtype(dtype, [&](auto d) {
    auto by = [&](auto affine, auto addend) {
      using D = decltype(d);
      for_groups<D, 4>(args.source.channels, [&](auto vectors, int64_t c) {
        fwd<D, decltype(affine)::value, decltype(addend)::value, vectors.count>(args, begin, end, c);
      });
    };
    if (args.source.addend) return by(Yes{}, Yes{});
    args.source.mean ? by(Yes{}, No{}) : by(No{}, No{});
  });
}

void activation_bwd(const ActivationBwd& args, Dtype dtype, int64_t block, int64_t begin, int64_t end) {
  with_dtype(dtype, [&](auto d) {
    choose(args.source.relu, [&](auto relu) {
      choose(args.sums, [&](auto sums) {
        using D = decltype(d);
        for_groups<D, 2>(args.source.channels, [&](auto vectors, int64_t c) {
          bwd<D, decltype(relu)::value, decltype(sums)::value, vectors.count>(args, block, begin, end, c);
        });
      });
    });
  });
}

void batch_stats(const BatchStats& args, Dtype dtype, int64_t block, int64_t begin, int64_t end) {
  with_dtype(dtype, [&](auto d) {
    using D = decltype(d);
    for_groups<D, 4>(args.channels,
                     [&](auto vectors, int64_t c) { stats<D, vectors.count>(args, block, begin, end, c); });
  });
}

}  // namespace fi::FI_ISA
