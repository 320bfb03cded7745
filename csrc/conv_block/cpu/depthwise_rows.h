// The rows of results of one item of depthwise.h, from its band. For simd*.cpp.
#pragma once

#include <vector>

#include "conv_block/cpu/depthwise_band.h"

namespace {

// to[p * kLineLanes] = sum over the taps of w[tap] * a[p * S pixels + the tap's place], for `blocks` blocks of pixels.
template <int K, int S>
__attribute__((noinline)) void row_pass(const float* a, int64_t stride, const TapRuns& taps, const float* w,
                                        int64_t w_row, int64_t blocks, float* to) {
  for (; blocks > 0; --blocks, a += kBlock * S * stride, to += kBlock * kLineLanes) {
    vfloat sum[kBlock] = {};
    for (int t = 0; t < taps.count; ++t) {
      const float* at = a + taps.offset[t];
      const float* wt = w + taps.number[t] * w_row;
      vfloat b[K];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) b[k] = load(wt + k * taps.next * w_row);
#pragma GCC unroll 32
      for (int i = 0; i < (kBlock - 1) * S + K; ++i, at += stride) {
        if (K < S && i % S >= K) continue;
        const vfloat x = load(at);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          if (i >= k && (i - k) % S == 0 && (i - k) / S < kBlock) sum[(i - k) / S] += b[k] * x;
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kBlock; ++p) store(to + p * kLineLanes, sum[p]);
  }
}

constexpr int64_t kNarrow = 16;  // columns

// What an item computes: its rows in the grid, the band they read and the taps of each phase.
struct ItemRows {
  const fi::Depthwise& d;
  const fi::Target& target;
  const fi::ChannelGroup& group;
  const fi::Piece3& piece;
  const DepthwiseBand& band;
  const float* values;  // the band
  TapRuns taps[fi::kMostStride][fi::kMostStride];

  ItemRows(const fi::Depthwise& d, const fi::Target& target, const fi::ChannelGroup& group, const fi::Piece3& piece,
           const DepthwiseBand& band, const float* values)
      : d(d), target(target), group(group), piece(piece), band(band), values(values) {
    for (int i = 0; i < d.map.phases[1]; ++i)
      for (int j = 0; j < d.map.phases[2]; ++j) taps[i][j] = band.taps(d, d.map.phase[1][i], d.map.phase[2][j]);
  }
  // The grid's pixel where a row begins.
  int64_t line(int64_t row) const {
    const int64_t frame = (piece.sample * d.map.grid[0] + piece.frame) * d.map.grid[1];
    return (frame + piece.y.begin + row) * d.map.grid[2] + piece.x.begin;
  }
  // One row of some vectors of a line, of channels from c on. results: [columns + kBlock, kLineLanes].
  template <class Epilogue>
  void run(int64_t row, int64_t c, float* results, Epilogue* epilogues, int64_t vectors) const {
    const fi::Phase& py = d.map.phase[1][row % d.map.phases[1]];
    const float* from = values + row / d.map.phases[1] * py.scale * band.columns * band.stride + c;
    for (int i = 0; i < d.map.phases[2]; ++i) {
      const fi::Phase& px = d.map.phase[2][i];
      const int64_t places = (piece.x.size - px.first + px.step - 1) / px.step;
      if (places <= 0) continue;
      const TapRuns& runs = taps[row % d.map.phases[1]][i];
      const int64_t first = line(row) + px.first, step = px.step;
      auto pixel = [=](int64_t p) { return first + p * step; };
      for (int64_t v = 0, at = 0; v < vectors; ++v, at += kLanes) {
        with_run(runs.run, px.scale, [&](auto k, auto s) {
          row_pass<k(), s()>(from + at, band.stride, runs, d.packed + group.first + c + at, d.packed_row,
                             (places + kBlock - 1) / kBlock, results + at);
        });
        epilogues[v](results + at, kLineLanes, places, pixel);
      }
      write_lines(target, group.of_target + c, results, kLineLanes, places, pixel);
    }
  }
};

// All rows. Of a narrow map all channels of a pixel are written at nearly the same time, a row after their lines were
// asked for: line by line the caches would fetch one here and one there, and wait for each. Of a wide map they see the
// lines come.
template <class Epilogue>
void run_rows(const ItemRows& item, int64_t number, float* results) {
  const fi::ChannelGroup& group = item.group;
  const fi::Target& target = item.target;
  std::vector<Epilogue> epilogues;
  epilogues.reserve((group.width + kLanes - 1) / kLanes);
  for (int64_t c = 0; c < group.width; c += kLanes) {
    epilogues.emplace_back(target, group.of_target + c, group.width - c < kLanes ? group.width - c : kLanes);
  }
  const int64_t count = static_cast<int64_t>(epilogues.size()), rows = item.piece.y.size;
  const bool narrow = item.piece.x.size <= kNarrow;
  const int64_t together = narrow ? count : kLineVectors;
  for (int64_t first = 0; first < count; first += together) {
    const int64_t end = first + together < count ? first + together : count;
    for (int64_t row = 0; row < rows; ++row) {
      const bool expects = (narrow || kLineVectors > 1) && row + 1 < rows;
      const int64_t expected = expects ? item.piece.x.size : 0, next = item.line(row + 1);
      for (int64_t v = first; v < end; v += kLineVectors) {
        for (int64_t p = 0; p < expected; ++p) epilogues[v].expect(next + p);
        item.run(row, v * kLanes, results, &epilogues[v], end - v < kLineVectors ? end - v : kLineVectors);
      }
    }
  }
  for (int64_t v = 0; target.sums && v < count; ++v) {
    epilogues[v].finish(target.sums + number * Epilogue::count * target.channels + group.of_target + v * kLanes);
  }
}

// The target as rows of a group are written to it.
inline fi::Target rows_of(fi::Target target, const fi::ChannelGroup& group) {
  target.past_caches &= target.channels % 16 == 0 && group.of_target % 16 == 0 && group.width % 16 == 0;
  return target;
}

}  // namespace
