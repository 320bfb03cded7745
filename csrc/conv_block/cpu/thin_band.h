// The part of a map that one work item of thin.h reads: activations in scratch memory, zero where it leaves the
// map, so that no kernel tests for edges. For simd_*.cpp.
#pragma once

#include <cstring>
#include <type_traits>

#include "conv_block/cpu/reader.h"
#include "conv_block/cpu/thin.h"

namespace {

constexpr int kLongChain = 128;  // products summed in a row: stock torch sums them all so

// One tap of the kernel: what to add to a pixel's place in the band, and its number in the weight.
struct Tap {
  int64_t offset;
  int64_t number;
};

// Frames that some tap reads, rows and columns; `stride` floats a pixel.
struct Band {
  int64_t first_pixel[fi::kMostTaps];  // of each frame of the band in its map
  int frame_count = 0;
  int low_y, low_x;
  int64_t rows, columns, stride;
  int64_t height, width;  // of the map
  Tap taps[fi::kMostTaps * fi::kMostTaps * fi::kMostTaps];
  int tap_count = 0;
  int run = 1;  // so many taps at a time read pixels side by side, from left to right

  // Kernels run over the grid's columns in blocks: the band reaches as far as whole blocks do.
  Band(const fi::ThinPlan& plan, const fi::Piece& piece, int64_t block, int64_t stride)
      : low_y(piece.row * piece.y->scale + piece.y->low),
        low_x(piece.column * piece.x->scale + piece.x->low),
        rows((piece.rows - 1) * piece.y->scale + piece.y->high - piece.y->low + 1),
        columns(((piece.columns + block - 1) / block * block - 1) * piece.x->scale + piece.x->high - piece.x->low + 1),
        stride(stride),
        height(plan.band[1]),
        width(plan.band[2]) {
    const fi::Phase& x = *piece.x;
    if (x.high - x.low == x.taps - 1) run = x.taps;
    const bool falls = run > 1 && x.at[1] < x.at[0];
    for (int i = 0; i < piece.t->taps; ++i) {
      const int64_t frame = piece.t->scale * piece.frame + piece.t->at[i];
      if (frame < 0 || frame >= plan.band[0]) continue;
      for (int j = 0; j < piece.y->taps; ++j) {
        for (int n = 0; n < x.taps; ++n) {
          const int k = falls ? x.taps - 1 - n : n;  // from left to right
          const int64_t row = frame_count * rows + piece.y->at[j] - piece.y->low;
          const int64_t column = x.at[k] - x.low;
          const int64_t number = piece.t->tap[i] * plan.shape.kernel[1] + piece.y->tap[j];
          taps[tap_count++] = {(row * columns + column) * stride, number * plan.shape.kernel[2] + x.tap[k]};
        }
      }
      first_pixel[frame_count++] = (piece.sample * plan.band[0] + frame) * height * width;
    }
  }
  int64_t size() const { return frame_count * rows * columns * stride; }

  // Calls read(pixel of the map, count, to) for every run of pixels inside the map, and clears the rest.
  template <class Read>
  void fill(float* to, Read read) const {
    const int64_t begin = low_x < 0 ? (-low_x < columns ? -low_x : columns) : 0;
    int64_t end = width - low_x < columns ? width - low_x : columns;
    if (end < begin) end = begin;
    for (int f = 0; f < frame_count; ++f) {
      for (int64_t r = 0; r < rows; ++r, to += columns * stride) {
        const int64_t row = low_y + r;
        if (row < 0 || row >= height || begin == end) {
          std::memset(to, 0, columns * stride * sizeof(float));
          continue;
        }
        std::memset(to, 0, begin * stride * sizeof(float));
        std::memset(to + end * stride, 0, (columns - end) * stride * sizeof(float));
        read(first_pixel[f] + row * width + low_x + begin, end - begin, to + begin * stride);
      }
    }
  }
};

inline bool plain(const fi::Source& s) { return !s.mean && !s.relu && !s.addend; }

// The values of `count` pixels with 3 or 4 channels, to pixels of kThin floats: all 4 are copied, but for the last.
template <int N>
void read_plain(const fi::Source& s, int64_t pixel, int64_t count, float* to) {
  const float* x = static_cast<const float*>(s.x) + pixel * N;
  if constexpr (N == fi::kThin) {
    std::memcpy(to, x, count * N * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count - 1; ++i) std::memcpy(to + i * fi::kThin, x + i * N, fi::kThin * sizeof(float));
  std::memcpy(to + (count - 1) * fi::kThin, x + (count - 1) * N, N * sizeof(float));
}

// Activations of `count` pixels of one source with N channels, to pixels of kThin floats. S: how maps are stored.
template <class S, int N>
void read_thin(const fi::Source& s, int64_t pixel, int64_t count, float* to) {
  const S* x = static_cast<const S*>(s.x) + pixel * N;
  const S* addend = s.addend ? static_cast<const S*>(s.addend) + pixel * N : nullptr;
  auto vector = [](const void* v, int c) { return static_cast<const float*>(v)[c]; };
  for (int64_t i = 0; i < count; ++i, x += N, to += fi::kThin) {
    for (int c = 0; c < N; ++c) {
      float v = to_float(x[c]);
      if (s.mean) v = (v - vector(s.mean, c)) * vector(s.scale, c) + vector(s.shift, c);
      if (s.relu) v = v < 0 ? 0.0f : v;
      if (addend) v += to_float(addend[i * N + c]);
      to[c] = v;
    }
  }
}

// Calls f with C as a constant, 1 <= channels <= kThin.
template <class F>
void with_thin(int64_t channels, F f) {
  if (channels == 1) return f(std::integral_constant<int, 1>{});
  if (channels == 2) return f(std::integral_constant<int, 2>{});
  if (channels == 3) return f(std::integral_constant<int, 3>{});
  return f(std::integral_constant<int, 4>{});
}

template <class S>
__attribute__((noinline)) void fill_thin(const Band& band, const fi::Source* sources, int count, float* to) {
  band.fill(to, [&](int64_t pixel, int64_t pixels, float* run) {
    const fi::Source& first = sources[0];
    if constexpr (std::is_same<S, float>::value) {
      if (count == 1 && plain(first) && first.channels == 3) return read_plain<3>(first, pixel, pixels, run);
      if (count == 1 && plain(first) && first.channels == 4) return read_plain<4>(first, pixel, pixels, run);
    }
    for (int s = 0; s < count; run += sources[s++].channels) {
      with_thin(sources[s].channels, [&](auto n) { read_thin<S, n()>(sources[s], pixel, pixels, run); });
    }
  });
}

// Activations of `count` pixels of the sources, side by side; pixels are `step` apart in the map, `stride` in `to`. The
// map is read in order, which the caches foresee.
template <class S>
__attribute__((noinline)) void read_wide(const fi::Source* sources, int source_count, int64_t pixel, int64_t step,
                                         int64_t count, int64_t stride, float* to) {
  if (std::is_same<S, float>::value && source_count == 1 && step == 1 && plain(sources[0])) {
    const float* x = static_cast<const float*>(sources[0].x);
    std::memcpy(to, x + pixel * stride, count * stride * sizeof(float));
    return;
  }
  for (int s = 0; s < source_count; to += sources[s++].channels) {
    const fi::Source& source = sources[s];
    with_reader<S>(source, [&](auto* reader) {
      using R = std::remove_pointer_t<decltype(reader)>;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < source.channels; c += kLanes) {
          store(to + i * stride + c, R(source, c)(pixel + i * step));
        }
      }
    });
  }
}

template <class S>
void fill_wide(const Band& band, const fi::Source* sources, int count, float* to) {
  band.fill(to, [&](int64_t pixel, int64_t pixels, float* run) {
    read_wide<S>(sources, count, pixel, 1, pixels, band.stride, run);
  });
}

}  // namespace
