// What becomes of a convolution's result, one vector of channels at a pixel after another. For simd_*.cpp.
#pragma once

#include "conv_block/cpu/reader.h"
#include "conv_block/cpu/winograd.h"

namespace {

FI_INLINE void write(float* to, vfloat v, bool past_caches, float* line) { put(to, v, kLanes, past_caches, line); }
// Half a cache line goes through the caches.
FI_INLINE void write(Bf16* to, vfloat v, bool, float*) { store(to, v); }

// y = result + bias and, where wanted, sums of what exceeds the item's first value. S: how maps are stored; the sums
// are of the stored values.
template <class S>
struct StoreWithStats {
  S* out;
  int64_t channels;
  vfloat bias{};
  Halves first, sum, squares;
  bool moments, past_caches, any = false;

  StoreWithStats(const fi::Target& t, int64_t c)
      : out(static_cast<S*>(t.out) + c), channels(t.channels), moments(t.sums), past_caches(t.past_caches) {
    if (t.bias) bias = load(t.bias + c);
  }
  // line: as of `put`.
  void operator()(int64_t pixel, vfloat v, float* line) {
    v += bias;
    write(out + pixel * channels, v, past_caches, line);
    if (!moments) return;
    v = stored(out, v);
    if (!any) first = halves(v);
    any = true;
    add_moments(sum, squares, v, first);
  }
  static constexpr int count = 3;
  void finish(double* sums) const {
    store_sums(sums, first, kLanes);
    store_sums(sums + channels, sum, kLanes);
    store_sums(sums + 2 * channels, squares, kLanes);
  }
};

// The activation's backward: dz = da * 1[z > 0], dx = dz * scale, and the sums of dz and dz * (x - mean).
template <class S>
struct ActivationGrad {
  const S* x;
  S *out, *daddend;
  int64_t channels;
  bool affine, clamp, past_caches;
  vfloat mean{}, scale{}, shift{};
  Halves sum_dz, sum_dz_x;

  ActivationGrad(const fi::Target& t, int64_t c)
      : x(static_cast<const S*>(t.source->x) + c),
        out(static_cast<S*>(t.out) + c),
        daddend(t.daddend ? static_cast<S*>(t.daddend) + c : nullptr),
        channels(t.channels),
        affine(t.source->mean),
        clamp(t.source->relu),
        past_caches(t.past_caches) {
    if (!affine) return;
    mean = load(static_cast<const float*>(t.source->mean) + c);
    scale = load(static_cast<const float*>(t.source->scale) + c);
    shift = load(static_cast<const float*>(t.source->shift) + c);
  }
  void operator()(int64_t pixel, vfloat dz, float* line) {
    const int64_t at = pixel * channels;
    if (daddend) write(daddend + at, dz, kLineVectors == 1 && past_caches, nullptr);
    if (affine || clamp) {
      const vfloat xv = load(x + at);
      if (clamp) dz = gate(affine ? (xv - mean) * scale + shift : xv, dz);
      add(sum_dz, dz);
      add_product(sum_dz_x, dz, xv - mean);
    }
    write(out + at, affine ? dz * scale : dz, past_caches, line);
  }
  static constexpr int count = 2;
  void finish(double* sums) const {
    store_sums(sums, sum_dz, kLanes);
    store_sums(sums + channels, sum_dz_x, kLanes);
  }
};

}  // namespace
