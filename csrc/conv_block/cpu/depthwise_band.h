// The part of a map that one item of depthwise.h reads, activated, in scratch memory; and its taps. For
// simd*.cpp.
#pragma once

#include <cstring>

#include "conv_block/cpu/depthwise.h"
#include "conv_block/cpu/rows.h"

namespace {

constexpr int kBlock = 7;  // pixels of a register block: it divides the widths of most maps, 7 to 112

// The taps of one phase of rows and columns, in runs of `run` that read pixels side by side: where each run begins in
// the band, and its number in the weight; `next` numbers from one of its taps to the next.
struct TapRuns {
  int count = 0, run = 1;
  int64_t next = 0;
  int64_t offset[fi::kMostDepthwiseTaps], number[fi::kMostDepthwiseTaps];
};

struct DepthwiseBand {
  int64_t frames = 0, first_pixel[fi::kMostTaps];  // of each frame in its map
  int time_tap[fi::kMostTaps];
  int64_t rows, columns, read;  // columns that exist for the taps, `read`, and whole blocks of them
  int64_t stride;               // floats of a pixel
  fi::Span y, x;
  int64_t height, width;  // of the map

  DepthwiseBand(const fi::Depthwise& d, const fi::Piece3& p, int64_t stride)
      : rows(p.y.count), read(p.x.count), stride(stride), y(p.y), x(p.x), height(d.map.band[1]), width(d.map.band[2]) {
    columns = read;
    for (int i = 0; i < d.map.phases[2]; ++i) {
      const fi::Phase& phase = d.map.phase[2][i];
      const int64_t places = (x.size - phase.first + phase.step - 1) / phase.step;
      const int64_t whole = (places + kBlock - 1) / kBlock * kBlock, j = x.begin / phase.step;
      const int64_t end = phase.scale * (j + whole - 1) + phase.high + 1 - x.low;
      if (places > 0 && phase.taps && end > columns) columns = end;
    }
    const fi::Phase& time = d.map.phase[0][p.frame % d.map.phases[0]];
    for (int i = 0; i < time.taps; ++i) {
      const int64_t frame = time.scale * (p.frame / time.step) + time.at[i];
      if (frame < 0 || frame >= d.map.band[0]) continue;
      time_tap[frames] = time.tap[i];
      first_pixel[frames++] = (p.sample * d.map.band[0] + frame) * height * width;
    }
  }
  int64_t size() const { return frames * rows * columns * stride; }

  void fill(const fi::Source& source, int64_t c, int64_t channels, float* to) const {
    const int64_t begin = x.low < 0 ? (-x.low < read ? -x.low : read) : 0;
    int64_t end = width - x.low < read ? width - x.low : read;
    if (end < begin) end = begin;
    for (int64_t f = 0; f < frames; ++f) {
      for (int64_t r = 0; r < rows; ++r, to += columns * stride) {
        const int64_t row = y.low + r;
        if (row < 0 || row >= height || begin == end) {
          std::memset(to, 0, columns * stride * sizeof(float));
          continue;
        }
        std::memset(to, 0, begin * stride * sizeof(float));
        std::memset(to + end * stride, 0, (columns - end) * stride * sizeof(float));
        const int64_t pixel = first_pixel[f] + row * width + x.low + begin;
        read_rows(source, c, channels, end - begin, [=](int64_t i) { return pixel + i; }, to + begin * stride, stride);
      }
    }
  }

  // Of the phases `py` and `px`, from the band's first row and column.
  TapRuns taps(const fi::Depthwise& d, const fi::Phase& py, const fi::Phase& px) const {
    TapRuns runs;
    const bool side_by_side = px.taps > 1 && px.high - px.low == px.taps - 1;
    const bool falls = side_by_side && px.at[1] < px.at[0];
    runs.run = side_by_side ? px.taps : 1;
    if (side_by_side) runs.next = falls ? px.tap[px.taps - 2] - px.tap[px.taps - 1] : px.tap[1] - px.tap[0];
    const int64_t* kernel = d.shape->kernel;
    for (int64_t f = 0; f < frames; ++f) {
      for (int i = 0; i < py.taps; ++i) {
        const int64_t row = f * rows + py.at[i] + py.scale * (y.begin / py.step) - y.low;
        const int64_t number = (time_tap[f] * kernel[1] + py.tap[i]) * kernel[2];
        for (int k = 0; k < px.taps; k += runs.run) {
          const int first = falls ? px.taps - 1 : k;  // the leftmost
          const int64_t column = px.at[first] + px.scale * (x.begin / px.step) - x.low;
          runs.offset[runs.count] = (row * columns + column) * stride;
          runs.number[runs.count++] = number + px.tap[first];
        }
      }
    }
    return runs;
  }
};

// Calls f(K, S) for a run of K <= kMostTaps taps and a step of S <= 2 pixels, as constants.
template <int K = fi::kMostTaps, class F>
void with_run(int run, int step, F f) {
  if constexpr (K > 1) {
    if (run < K) return with_run<K - 1>(run, step, f);
  }
  step == 1 ? f(std::integral_constant<int, K>{}, std::integral_constant<int, 1>{})
            : f(std::integral_constant<int, K>{}, std::integral_constant<int, 2>{});
}

}  // namespace
