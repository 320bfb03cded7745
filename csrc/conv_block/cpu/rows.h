// How direct convolutions read and write any number of channels, some pixels at a time. For simd*.cpp.
#pragma once

#include <cstring>
#include <type_traits>

#include "conv_block/cpu/act_rows.h"
#include "conv_block/cpu/reader.h"
#include "conv_block/cpu/winograd.h"

namespace {

constexpr int kWideVectors = 4;  // read side by side: one at a time would read the map a line here and a line there
constexpr int64_t kStripFloats = 1024;  // of one source, read before the next channels are
constexpr int64_t kReadAhead = FI_BYTES == 32 ? 16 : 0;  // pixels asked for before they are read
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
// padding, which is zero. `floor` is ReLU's; a source with an addend is AFFINE too, if need be by the identity.
template <int COUNT, bool AFFINE, bool ADDEND, class Pixel>
void read_vectors(const fi::Source& s, vfloat floor, int64_t c, int64_t n, int64_t count, Pixel pixel, float* to,
                  int64_t stride) {
  vfloat mean[COUNT] = {}, scale[COUNT] = {}, shift[COUNT] = {};
  auto vector = [&](const void* v, int i) { return load_n(static_cast<const float*>(v) + c + i * kLanes, n); };
  for (int i = 0; AFFINE && i < COUNT; ++i) {
    mean[i] = s.mean ? vector(s.mean, i) : vfloat{};
    scale[i] = s.mean ? vector(s.scale, i) : 1.0f - vfloat{};
    shift[i] = s.mean ? vector(s.shift, i) : vfloat{};
  }
  const float* x = static_cast<const float*>(s.x) + c;
  const float* addend = ADDEND ? static_cast<const float*>(s.addend) + c : nullptr;
  for (int64_t p = 0; p < count; ++p, to += stride) {
    const int64_t place = pixel(p), at = place * s.channels;
#pragma GCC unroll 4
    for (int i = 0; i < COUNT; ++i) {
      vfloat v{};
      if (kReadAhead > 0 && COUNT > 1 && i % kLineVectors == 0) {
        __builtin_prefetch(x + at + kReadAhead * s.channels + i * kLanes);
        if (ADDEND) __builtin_prefetch(addend + at + kReadAhead * s.channels + i * kLanes);
      }
      if (place >= 0) {
        v = load_n(x + at + i * kLanes, n);
        if (AFFINE) v = (v - mean[i]) * scale[i] + shift[i];
        v = at_least(floor, v);
        if (ADDEND) v += load_n(addend + at + i * kLanes, n);
      }
      store(to + i * kLanes, v);
    }
  }
}

// f(first, number, their pixels) for pixels some at a time.
template <class Pixel, class F>
void for_pixels(int64_t count, Pixel pixel, F f) {
  int64_t list[kSegment];
  for (int64_t begin = 0; begin < count; begin += kSegment) {
    const int64_t size = count - begin < kSegment ? count - begin : kSegment;
    for (int64_t i = 0; i < size; ++i) list[i] = pixel(begin + i);
    f(begin, size, list);
  }
}

// to[i * stride + k] = the source's activation of channel c + k at pixel(i), k < width and i < count. Whole vectors are
// written: what follows the last channel is arbitrary. The map is read some pixels at a time, nearly in its order,
// which the caches foresee. Activations other than ReLU take a pass over the rows while they are in the first cache.
template <class Pixel>
void read_rows(const fi::Source& s, int64_t c, int64_t width, int64_t count, Pixel pixel, float* to, int64_t stride) {
  const int64_t strip = width < kStripFloats / 4 ? kStripFloats / width : 4;
  const Activation activation(s);
  const vfloat floor = activation.act == fi::Act::relu ? vfloat{} : no_floor();
  auto by = [&](auto affine, auto addend) {
    constexpr bool kAffine = decltype(affine)::value, kAddend = decltype(addend)::value;
    for (int64_t first = 0; first < count; first += strip, to += strip * stride) {
      const int64_t pixels = count - first < strip ? count - first : strip;
      auto at = [&](int64_t i) { return pixel(first + i); };
      int64_t k = 0;
      for (; k + kWideVectors * kLanes <= width; k += kWideVectors * kLanes) {
        read_vectors<kWideVectors, kAffine, kAddend>(s, floor, c + k, kLanes, pixels, at, to + k, stride);
      }
      for (; k < width; k += kLanes) {
        read_vectors<1, kAffine, kAddend>(s, floor, c + k, width - k, pixels, at, to + k, stride);
      }
      if (kAddend || !activation.needs_pass()) continue;
      const float* more = s.addend ? static_cast<const float*>(s.addend) + c : nullptr;
      for_pixels(pixels, at, [&](int64_t begin, int64_t size, const int64_t* list) {
        fi::FI_ISA::act_rows(
            {activation.act, activation.parameter, more, s.channels, width, stride, size, list, to + begin * stride});
      });
    }
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (s.addend && !activation.needs_pass()) return by(yes, yes);
  s.mean ? by(yes, no) : by(no, no);
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
  void operator()(float* results, int64_t row, int64_t count, Pixel pixel) {
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
        put(out + pixel(i) * channels, v, n, past_caches, results + i * row);
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
  fi::GradRows args;
  alignas(64) float vectors[3 * kLanes];  // mean, scale and shift: the identity where there are none
  Halves sum_dz, sum_dz_x;

  ActivationGradRows(const fi::Target& t, int64_t c, int64_t n) {
    const fi::Source& s = *t.source;
    const Activation activation(s);
    args = {activation.act,
            activation.parameter,
            s.mean != nullptr,
            static_cast<const float*>(s.x) + c,
            static_cast<float*>(t.out) + c,
            t.daddend ? static_cast<float*>(t.daddend) + c : nullptr,
            t.channels,
            n,
            nullptr,
            t.past_caches};
    auto vector = [&](const void* v, float without) {
      return s.mean ? load_n(static_cast<const float*>(v) + c, n) : without - vfloat{};
    };
    store(vectors, vector(s.mean, 0));
    store(vectors + kLanes, vector(s.scale, 1));
    store(vectors + 2 * kLanes, vector(s.shift, 0));
  }
  // results [count, row] of the pixels pixel(i).
  template <class Pixel>
  void operator()(float* results, int64_t row, int64_t count, Pixel pixel) {
    args.vectors = vectors;
    for_pixels(count, pixel, [&](int64_t begin, int64_t size, const int64_t* list) {
      alignas(64) float sums[2 * kLanes];
      fi::FI_ISA::grad_rows(args, results + begin * row, row, list, size, sums);
      if (!args.affine) return;
      add(sum_dz, load(sums));
      add(sum_dz_x, load(sums + kLanes));
    });
  }
  FI_INLINE void expect(int64_t pixel) const {
    if (!args.past_caches) __builtin_prefetch(args.out + pixel * args.channels, 1);
    if (args.affine || args.act != fi::Act::none) __builtin_prefetch(args.x + pixel * args.channels);
  }
  static constexpr int count = 2;
  void finish(double* sums) const {
    store_sums(sums, sum_dz, args.n);
    store_sums(sums + args.channels, sum_dz_x, args.n);
  }
};

// Writes what the epilogues of the vectors of a line, from channel c on, have left in place of the results.
template <class Pixel>
void write_lines(const fi::Target& t, int64_t c, const float* results, int64_t row, int64_t count, Pixel pixel) {
  if (kLineVectors == 1 || !t.past_caches) return;
  float* out = static_cast<float*>(t.out) + c;
  for (int64_t i = 0; i < count; ++i) stream_line(out + pixel(i) * t.channels, results + i * row);
}

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
