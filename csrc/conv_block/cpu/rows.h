// How direct convolutions read and write any number of channels, some pixels at a time. For simd*.cpp.
#pragma once

#include <type_traits>

#include "conv_block/cpu/winograd.h"
#include "conv_block/cpu/reader.h"

namespace {

constexpr int kWideVectors = 4;   // read side by side: one at a time would read the map a line here and a line there
constexpr int64_t kStripFloats = 1024;  // of one source, read before the next channels are
constexpr int64_t kSegment = 32;  // most pixels whose sums are taken in float before they join those in double

// The activations: a = act(z), and dz = da * act'(z). The codes are those of `Source::relu`.
enum Act { kIdentity, kRelu };

template <int ACT>
FI_INLINE vfloat act(vfloat z) {
  return ACT == kRelu ? relu(z) : z;
}
template <int ACT>
FI_INLINE vfloat act_grad(vfloat z, vfloat da) {
  return ACT == kRelu ? gate(z, da) : da;
}
// Calls f with the activation as a constant.
template <class F>
void with_act(int64_t code, F f) {
  code == kRelu ? f(std::integral_constant<int, kRelu>{}) : f(std::integral_constant<int, kIdentity>{});
}

// Activations of COUNT vectors of channels from c on, the last with n channels, at `count` pixels. Negative pixels are
// padding, which is zero.
template <int COUNT, bool AFFINE, int ACT, bool ADDEND, class Pixel>
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
        v = act<ACT>(v);
        if (ADDEND) v += load_n(addend + at + i * kLanes, n);
      }
      store(to + i * kLanes, v);
    }
  }
}

// to[i * stride + k] = the source's activation of channel c + k at pixel(i), k < width and i < count. Whole vectors are
// written: what follows the last channel is arbitrary. The map is read some pixels at a time, nearly in its order, which
// the caches foresee.
template <class Pixel>
void read_rows(const fi::Source& s, int64_t c, int64_t width, int64_t count, Pixel pixel, float* to, int64_t stride) {
  const int64_t strip = width < kStripFloats / 4 ? kStripFloats / width : 4;
  auto by = [&](auto affine, auto code, auto addend) {
    constexpr bool kAffine = decltype(affine)::value, kAddend = decltype(addend)::value;
    constexpr int kAct = decltype(code)::value;
    for (int64_t first = 0; first < count; first += strip, to += strip * stride) {
      const int64_t pixels = count - first < strip ? count - first : strip;
      auto at = [&](int64_t i) { return pixel(first + i); };
      int64_t k = 0;
      for (; k + kWideVectors * kLanes <= width; k += kWideVectors * kLanes) {
        read_vectors<kWideVectors, kAffine, kAct, kAddend>(s, c + k, kLanes, pixels, at, to + k, stride);
      }
      for (; k < width; k += kLanes) {
        read_vectors<1, kAffine, kAct, kAddend>(s, c + k, width - k, pixels, at, to + k, stride);
      }
    }
  };
  with_act(s.relu, [&](auto code) {
    constexpr std::true_type yes;
    constexpr std::false_type no;
    if (s.mean) return s.addend ? by(yes, code, yes) : by(yes, code, no);
    s.addend ? by(no, code, yes) : by(no, code, no);
  });
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
      : out(t.out + c), channels(t.channels), n(n), moments(t.sums), past_caches(t.past_caches) {
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
  const fi::Source& source;
  const float* x;
  float *out, *daddend;
  int64_t channels, n;
  vfloat mean{}, scale{}, shift{};
  Halves sum_dz, sum_dz_x;
  bool affine, past_caches;

  ActivationGradRows(const fi::Target& t, int64_t c, int64_t n)
      : source(*t.source),
        x(static_cast<const float*>(t.source->x) + c),
        out(t.out + c),
        daddend(t.daddend ? t.daddend + c : nullptr),
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

  template <int ACT, bool AFFINE, class Pixel>
  void rows(const float* results, int64_t row, int64_t count, Pixel pixel) {
    for (int64_t begin = 0; begin < count; begin += kSegment) {
      const int64_t end = begin + kSegment < count ? begin + kSegment : count;
      vfloat s{}, q{};
      for (int64_t i = begin; i < end; ++i) {
        vfloat dz = load(results + i * row);
        const int64_t at = pixel(i) * channels;
        if (daddend) put(daddend + at, dz);
        if (AFFINE || ACT != kIdentity) {
          const vfloat xv = load_n(x + at, n);
          dz = act_grad<ACT>(AFFINE ? (xv - mean) * scale + shift : xv, dz);
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
    with_act(source.relu, [&](auto code) {
      constexpr int kAct = decltype(code)::value;
      affine ? rows<kAct, true>(results, row, count, pixel) : rows<kAct, false>(results, row, count, pixel);
    });
  }
  FI_INLINE void expect(int64_t pixel) const {
    if (!past_caches) __builtin_prefetch(out + pixel * channels, 1);
    if (affine || source.relu) __builtin_prefetch(x + pixel * channels);
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
