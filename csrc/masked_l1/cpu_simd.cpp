// `masked_l1` on the CPU: one frame at a time, vectors along whatever is innermost. Contracts in cpu.h.
#include <algorithm>

#include "common/cpu_vec.h"
#include "masked_l1/cpu.h"

namespace fi::FI_ISA {
namespace {

// Values handled at once: they stay in the first cache, with the mask repeated for every channel.
constexpr int64_t BLOCK = 1024;

template <class V>
V magnitude(V v) {
  return v < 0 ? -v : v;
}

// 1, -1 or 0; NaN stays NaN.
template <class V>
V sign(V v) {
  const V one = V{} + 1;
  return v > 0 ? one : (v < 0 ? -one : v * 0);
}

// Calls body(at, weights, n) for the runs of n values, weights[i] being the mask of value at + i.
template <class D, class F>
void for_runs(const MaskedL1& args, int64_t item, F body) {
  const int64_t n = item / args.frames, t = item % args.frames, c = args.channels, p = args.pixels;
  const D* mask = static_cast<const D*>(args.mask) + item * p;
  if (args.planar || c == 1) {
    for (int64_t i = 0; i < c; ++i) body(((n * c + i) * args.frames + t) * p, mask, p);
    return;
  }
  D weights[BLOCK];
  const int64_t step = std::max<int64_t>(1, BLOCK / c);
  for (int64_t begin = 0; begin < p; begin += step) {
    const int64_t end = std::min(p, begin + step);
    for (int64_t first = 0; first < c; first += BLOCK) {  // more channels than fit are cut
      const int64_t width = std::min(BLOCK, c - first);
      D* w = weights;
      if (width == 3) {  // colours: a loop that the compiler unrolls
        for (int64_t i = begin; i < end; ++i, w += 3) w[0] = w[1] = w[2] = mask[i];
      } else {
        for (int64_t i = begin; i < end; ++i, w += width) std::fill(w, w + width, mask[i]);
      }
      body((item * p + begin) * c + first, weights, w - weights);
    }
  }
}

template <class D>
double total(const typename Simd<D>::sums& sums) {
  double lanes[Simd<D>::lanes], found = 0;
  store_sums(lanes, sums, Simd<D>::lanes);
  for (const double lane : lanes) found += lane;
  return found;
}

template <class D>
double error(const MaskedL1& args, int64_t item) {
  const D *output = static_cast<const D*>(args.output), *target = static_cast<const D*>(args.target);
  typename Simd<D>::sums sums{};
  for_runs<D>(args, item, [&](int64_t at, const D* weights, int64_t n) {
    int64_t i = 0;
    for (; i + Simd<D>::lanes <= n; i += Simd<D>::lanes)
      add(sums, load(weights + i) * magnitude(load(output + at + i) - load(target + at + i)));
    if (i < n)
      add(sums, load_part(weights + i, n - i) *
                    magnitude(load_part(output + at + i, n - i) - load_part(target + at + i, n - i)));
  });
  return total<D>(sums);
}

template <class D>
double holes(const MaskedL1& args, int64_t item) {
  const D* mask = static_cast<const D*>(args.mask) + item * args.pixels;
  typename Simd<D>::sums sums{};
  for (int64_t i = 0; i < args.pixels; i += Simd<D>::lanes) add(sums, load_n(mask + i, args.pixels - i));
  return total<D>(sums);
}

template <class D>
void bwd(const MaskedL1& args, int64_t item, double factor, D* doutput) {
  using V = typename Simd<D>::vec;
  const D *output = static_cast<const D*>(args.output), *target = static_cast<const D*>(args.target);
  const V scale = V{} + static_cast<typename Simd<D>::scalar>(factor);
  for_runs<D>(args, item, [&](int64_t at, const D* weights, int64_t n) {
    for (int64_t i = 0; i < n; i += Simd<D>::lanes) {
      const int64_t left = n - i;
      const V difference = load_n(output + at + i, left) - load_n(target + at + i, left);
      store_n(doutput + at + i, load_n(weights + i, left) * scale * sign(difference), left);
    }
  });
}

}  // namespace

#define FI_WITH_DTYPE(call)     \
  if (args.dtype == 0) {        \
    using D = float;            \
    call;                       \
  } else if (args.dtype == 1) { \
    using D = double;           \
    call;                       \
  } else {                      \
    using D = Bf16;             \
    call;                       \
  }

void masked_l1_error(const MaskedL1& args, int64_t item, double* sum) { FI_WITH_DTYPE(*sum = error<D>(args, item)) }

void masked_l1_holes(const MaskedL1& args, int64_t item, double* sum) { FI_WITH_DTYPE(*sum = holes<D>(args, item)) }

void masked_l1_bwd(const MaskedL1& args, int64_t item, double factor, void* doutput) {
  FI_WITH_DTYPE(bwd(args, item, factor, static_cast<D*>(doutput)))
}

}  // namespace fi::FI_ISA
