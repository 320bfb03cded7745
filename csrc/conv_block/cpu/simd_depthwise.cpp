// Forward and data gradient of depthwise.h.
#include "conv_block/cpu/depthwise_band.h"

namespace fi::FI_ISA {
namespace {

// to[p * kLanes] = sum over the taps of w[tap] * a[p * S pixels + the tap's place], for `blocks` blocks of pixels.
template <int K, int S>
__attribute__((noinline)) void row_pass(const float* a, int64_t stride, const TapRuns& taps, const float* w,
                                        int64_t w_row, int64_t blocks, float* to) {
  for (; blocks > 0; --blocks, a += kBlock * S * stride, to += kBlock * kLanes) {
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
    for (int p = 0; p < kBlock; ++p) store(to + p * kLanes, sum[p]);
  }
}

}  // namespace

void depthwise(const Depthwise& d, int64_t item) {
  const ChannelGroup& group = d.groups[item % d.group_count];
  const int64_t number = item / d.group_count;
  const Piece3 piece = d.piece(number);
  const int64_t stride = (group.width + kLanes - 1) / kLanes * kLanes;
  const DepthwiseBand band(d, piece, stride);
  const int64_t row_floats = (d.columns + kBlock) * kLanes;
  float* results = scratch(Scratch::tiles, band.size() + row_floats);
  float* values = results + row_floats;
  band.fill(d.sources[group.source], group.of_source, group.width, values);

  Target target = d.targets[group.target];
  target.past_caches &= target.channels % 16 == 0 && group.of_target % 16 == 0 && group.width % 16 == 0;
  TapRuns runs[kMostStride][kMostStride];
  const int phases_y = d.map.phases[1], phases_x = d.map.phases[2];
  for (int i = 0; i < phases_y; ++i)
    for (int j = 0; j < phases_x; ++j) runs[i][j] = band.taps(d, d.map.phase[1][i], d.map.phase[2][j]);

  const int64_t frame = (piece.sample * d.map.grid[0] + piece.frame) * d.map.grid[1];
  for (int64_t c = 0; c < group.width; c += kLanes) {
    const int64_t n = group.width - c < kLanes ? group.width - c : kLanes;
    with_epilogues(target, group.of_target + c, n, [&](auto& epilogues) {
      auto& epilogue = epilogues[0];
      for (int64_t row = 0; row < piece.y.size; ++row) {
        const Phase& py = d.map.phase[1][row % phases_y];
        const float* from = values + row / phases_y * py.scale * band.columns * stride + c;
        const int64_t line = (frame + piece.y.begin + row) * d.map.grid[2] + piece.x.begin;
        for (int i = 0; i < phases_x; ++i) {
          const Phase& px = d.map.phase[2][i];
          const int64_t places = (piece.x.size - px.first + px.step - 1) / px.step;
          if (places <= 0) continue;
          const TapRuns& taps = runs[row % phases_y][i];
          with_run(taps.run, px.scale, [&](auto k, auto s) {
            row_pass<k(), s()>(from, stride, taps, d.packed + group.first + c, d.packed_row,
                               (places + kBlock - 1) / kBlock, results);
          });
          const int64_t pixel = line + px.first, step = px.step;
          epilogue(results, kLanes, places, [=](int64_t p) { return pixel + p * step; });
        }
      }
      if (target.sums) {
        epilogue.finish(target.sums + number * epilogue.count * target.channels + group.of_target + c);
      }
    });
  }
  end_stream();
}

}  // namespace fi::FI_ISA
