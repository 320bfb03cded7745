// How direct convolutions read and write any number of channels, some pixels at a time. For simd*.cpp.
#pragma once

#include <cstring>
#include <type_traits>

#include "conv_block/cpu/reader.h"
#include "conv_block/cpu/winograd.h"
#include "norm_act/cpu_acts.h"

namespace {

constexpr int kWideVectors = 4;  // read side by side: one at a time would read the map a line here and a line there
constexpr int64_t kStripFloats = 1024;  // of one source, read before the next channels are
constexpr int64_t kSegment = 32;        // most pixels whose sums are taken in float before they join those in double

// The activation of a source and its parameter, out of `Source::relu`.
struct Activation {
  fi::Act act;
  float parameter;

  explicit Activation(const fi::Source& s) : act(static_cast<fi::Act>(s.relu & 0xff)) {
    const uint32_t bits = static_cast<uint32_t>(s.relu >> 8);
    std::memcpy(&parameter, &bits, sizeof(bits));
  }
  // Whether it takes more than the clamp that goes with a load.
  bool needs_pass() const { return act != fi::Act::none && act != fi::Act::relu; }
};

// Activations of COUNT vectors of channels from c on, the last with n channels, at `count` pixels. Negative pixels are
// padding, which is zero.
template <int COUNT, bool AFFINE, bool RELU, bool ADDEND, class Pixel>
void read_vectors(const fi::Source& s, int64_t c, int64_t n, int64_t count, Pixel pixel, float* to, int64_t stride) {
  vfloat mean[COUNT] = {}, scale[COUNT] = {}, shift[COUNT] = {};
  auto vector = [&](const void* v, int i) { return load_n(static_cast<const float*>(v) + c + i * kLanes, n); };
  for (int i = 0; AFFINE && i < COUNT; ++i) {
    mean[i] = vector(s.mean, i);
    scale[i] = vector(s.scale, i);
    shift[i] = vector(s.shift, i);
  }
  const float* x = static_cast<const float*>(s.x) + c;
  const float* addend = ADDEND ? static_cast<const float*>(s.addend) + c : nullptr;
  for (int64_t p = 0; p < count; ++p, to += stride) {
    const int64_t place = pixel(p), at = place * s.channels;
#pragma GCC unroll 4
    for (int i = 0; i < COUNT; ++i) {
      vfloat v{};
      if (place >= 0) {
        v = load_n(x + at + i * kLanes, n);
        if (AFFINE) v = (v - mean[i]) * scale[i] + shift[i];
        if (RELU) v = relu(v);
        if (ADDEND) v += load_n(addend + at + i * kLanes, n);
      }
      store(to + i * kLanes, v);
    }
  }
}

// rows[i * stride + k], k < width: act of what is there, plus the addend of channel c + k at pixel(i); padding stays
// zero. The rows are in the first cache: an activation in the load itself would be compiled once for each kind of load.
template <class Pixel>
void activate_rows(const fi::Source& s, int64_t c, int64_t width, int64_t count, Pixel pixel, float* rows,
                   int64_t stride) {
  const Activation activation(s);
  const float* addend = static_cast<const float*>(s.addend);
  with_act<float>(activation.act, [&](auto chosen) {
    for (int64_t i = 0; i < count; ++i, rows += stride) {
      const int64_t place = pixel(i);
      if (place < 0) continue;
      for (int64_t k = 0; k < width; k += kLanes) {
        vfloat v = decltype(chosen)::fwd(load(rows + k), activation.parameter);
        if (addend) v += load_n(addend + place * s.channels + c + k, width - k);
        store(rows + k, v);
      }
    }
  });
}

// to[i * stride + k] = the source's activation of channel c + k at pixel(i), k < width and i < count. Whole vectors are
// written: what follows the last channel is arbitrary. The map is read some pixels at a time, nearly in its order,
// which the caches foresee.
template <class Pixel>
void read_rows(const fi::Source& s, int64_t c, int64_t width, int64_t count, Pixel pixel, float* to, int64_t stride) {
  const int64_t strip = width < kStripFloats / 4 ? kStripFloats / width : 4;
  const Activation activation(s);
  auto by = [&](auto affine, auto clamp, auto addend) {
    constexpr bool kAffine = decltype(affine)::value, kRelu = decltype(clamp)::value;
    constexpr bool kAddend = decltype(addend)::value;
    for (int64_t first = 0; first < count; first += strip, to += strip * stride) {
      const int64_t pixels = count - first < strip ? count - first : strip;
      auto at = [&](int64_t i) { return pixel(first + i); };
      int64_t k = 0;
      for (; k + kWideVectors * kLanes <= width; k += kWideVectors * kLanes) {
        read_vectors<kWideVectors, kAffine, kRelu, kAddend>(s, c + k, kLanes, pixels, at, to + k, stride);
      }
      for (; k < width; k += kLanes) {
        read_vectors<1, kAffine, kRelu, kAddend>(s, c + k, width - k, pixels, at, to + k, stride);
      }
      if (!kRelu && !kAddend && activation.needs_pass()) activate_rows(s, c, width, pixels, at, to, stride);
    }
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  auto with_addend = [&](auto affine, auto clamp) {
    s.addend && !activation.needs_pass() ? by(affine, clamp, yes) : by(affine, clamp, no);
  };
  auto with_clamp = [&](auto affine) {
    activation.act == fi::Act::relu ? with_addend(affine, yes) : with_addend(affine, no);
  };
  s.mean ? with_clamp(yes) : with_clamp(no);
}

// y = result + bias for n channels from c on and, where wanted, the sums of what exceeds an offset, the mean of the
// item's first pixels: with their first value in its place float sums of squares had 2 to 6 times stock torch's error.
struct StoreRows {
  float* out;
  int64_t channels, n;
  vfloat bias{}, offset{};
  Halves sum, squares;
  bool moments, past_caches, any = false;

  StoreRows(const fi::Target& t, int64_t c, int64_t n)
      : out(static_cast<float*>(t.out) + c), channels(t.channels), n(n), moments(t.sums), past_caches(t.past_caches) {
    if (t.bias) bias = load_n(t.bias + c, n);
  }
  // results [count, row] of the pixels pixel(i).
  template <class Pixel>
  void operator()(const float* results, int64_t row, int64_t count, Pixel pixel) {
    if (moments && !any && count > 0) {
      const int64_t pixels = count < kSegment ? count : kSegment;
      const vfloat first = load(results);
      for (int64_t i = 1; i < pixels; ++i) offset += load(results + i * row) - first;
      offset = offset * (1.0f / static_cast<float>(pixels)) + first + bias;
      any = true;
    }
    for (int64_t begin = 0; begin < count; begin += kSegment) {
      const int64_t end = begin + kSegment < count ? begin + kSegment : count;
      vfloat s{}, q{};
      for (int64_t i = begin; i < end; ++i) {
        const vfloat v = load(results + i * row) + bias;
        float* to = out + pixel(i) * channels;
        past_caches ? stream(to, v) : store_n(to, v, n);
        const vfloat d = v - offset;
        s += d;
        q += d * d;
      }
      if (!moments) continue;
      add(sum, s);
      add(squares, q);
    }
  }
  FI_INLINE void expect(int64_t pixel) const {
    if (!past_caches) __builtin_prefetch(out + pixel * channels, 1);
  }
  static constexpr int count = 3;
  void finish(double* sums) const {
    store_sums(sums, halves(offset), n);
    store_sums(sums + channels, sum, n);
    store_sums(sums + 2 * channels, squares, n);
  }
};

// The activation's backward: dz = da * act'(z), dx = dz * scale, and the sums of dz and dz * (x - mean).
struct ActivationGradRows {
  const Activation activation;
  const float* x;
  float *out, *daddend;
  int64_t channels, n;
  vfloat mean{}, scale{}, shift{};
  Halves sum_dz, sum_dz_x;
  bool affine, past_caches;

  ActivationGradRows(const fi::Target& t, int64_t c, int64_t n)
      : activation(*t.source),
        x(static_cast<const float*>(t.source->x) + c),
        out(static_cast<float*>(t.out) + c),
        daddend(t.daddend ? static_cast<float*>(t.daddend) + c : nullptr),
        channels(t.channels),
        n(n),
        affine(t.source->mean),
        past_caches(t.past_caches) {
    if (!affine) return;
    mean = load_n(static_cast<const float*>(t.source->mean) + c, n);
    scale = load_n(static_cast<const float*>(t.source->scale) + c, n);
    shift = load_n(static_cast<const float*>(t.source->shift) + c, n);
  }
  FI_INLINE void put(float* to, vfloat v) const { past_caches ? stream(to, v) : store_n(to, v, n); }

  template <class ACT, bool AFFINE, class Pixel>
  void rows(const float* results, int64_t row, int64_t count, Pixel pixel) {
    for (int64_t begin = 0; begin < count; begin += kSegment) {
      const int64_t end = begin + kSegment < count ? begin + kSegment : count;
      vfloat s{}, q{};
      for (int64_t i = begin; i < end; ++i) {
        vfloat dz = load(results + i * row);
        const int64_t at = pixel(i) * channels;
        if (daddend) put(daddend + at, dz);
        if (AFFINE || activation.act != fi::Act::none) {
          const vfloat xv = load_n(x + at, n);
          dz = ACT::bwd(AFFINE ? (xv - mean) * scale + shift : xv, activation.parameter, dz);
          s += dz;
          q += dz * (xv - mean);
        }
        put(out + at, AFFINE ? dz * scale : dz);
      }
      if (!AFFINE) continue;
      add(sum_dz, s);
      add(sum_dz_x, q);
    }
  }
  template <class Pixel>
  void operator()(const float* results, int64_t row, int64_t count, Pixel pixel) {
    with_act<float>(activation.act, [&](auto chosen) {
      using Chosen = decltype(chosen);
      affine ? rows<Chosen, true>(results, row, count, pixel) : rows<Chosen, false>(results, row, count, pixel);
    });
  }
  FI_INLINE void expect(int64_t pixel) const {
    if (!past_caches) __builtin_prefetch(out + pixel * channels, 1);
    if (affine || activation.act != fi::Act::none) __builtin_prefetch(x + pixel * channels);
  }
  static constexpr int count = 2;
  void finish(double* sums) const {
    store_sums(sums, sum_dz, n);
    store_sums(sums + channels, sum_dz_x, n);
  }
};

// Calls f with the epilogues of a target for `width` channels from c on, two vectors at most.
template <class F>
void with_epilogues(const fi::Target& t, int64_t c, int64_t width, F f) {
  const int64_t n = width < kLanes ? width : kLanes, rest = width - n;
  if (t.source) {
    ActivationGradRows epilogues[2] = {{t, c, n}, {t, rest ? c + n : c, rest ? rest : n}};
    return f(epilogues);
  }
  StoreRows epilogues[2] = {{t, c, n}, {t, rest ? c + n : c, rest ? rest : n}};
  f(epilogues);
}

}  // namespace
