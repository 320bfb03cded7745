// The weight gradient between a thin and a wide map: see thin.h. Vectors lie along the wide channels.
#pragma once

#include "conv_block/cpu/thin_band.h"

namespace fi::FI_ISA {
namespace {

constexpr int kSums = FI_BYTES == 64 ? 28 : 12;  // accumulators: taps times thin channels
constexpr int kMostPointers = 9;                 // taps of one sweep, each with a pointer of its own

template <int C>
constexpr int kSweep = kSums / C < kMostPointers ? kSums / C : kMostPointers;

// Some rows of the grid in scratch memory.
struct Rows {
  const float* thin;  // the band at the first row; rows are thin_row apart, pixels thin_step
  int64_t thin_row, thin_step;
  const float* wide;  // pixels are wide_step apart, rows follow each other
  int64_t wide_step;
  int64_t rows, columns;
};

// product[tap, c] += sum over the pixels of wide * thin[tap.offset + c]. Not inline: what its callers hold would push
// the sums out of the registers.
template <int C, int TAPS>
__attribute__((noinline)) void sweep(const Rows& in, const Tap* taps, float* product, int64_t product_row) {
  vfloat sum[TAPS][C] = {};
  const int64_t step = in.thin_step, wide_step = in.wide_step;
  const float* wide = in.wide;
  for (int64_t row = 0; row < in.rows; ++row) {
    const float* a[TAPS];
    for (int t = 0; t < TAPS; ++t) a[t] = in.thin + row * in.thin_row + taps[t].offset;
    for (int64_t at = 0, end = in.columns * step; at < end; at += step, wide += wide_step) {
      const vfloat b = load(wide);
#pragma GCC unroll 9
      for (int t = 0; t < TAPS; ++t) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[t][c] += b * a[t][at + c];
      }
    }
  }
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* to = product + (taps[t].number * C + c) * product_row;
      store(to, load(to) + sum[t][c]);
    }
  }
}

// `sweep` for a number of taps known when it runs.
template <int C, int TAPS, class... Args>
void sweep_of(int taps, const Args&... args) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return sweep_of<C, TAPS - 1>(taps, args...);
  }
  sweep<C, TAPS>(args...);
}

// Adds what the rows of one piece give.
template <class S, int C>
void add_piece(const ThinWeightGrad& args, const Piece& piece, float* product) {
  const ThinPlan& plan = *args.plan;
  const Phase &y = *piece.y, &x = *piece.x;
  const Band band(plan, piece, 1, kThin);
  if (band.tap_count == 0) return;
  const int64_t channels = plan.shape.wide_channels;
  const int64_t most_rows = kLongChain / piece.columns > 1 ? kLongChain / piece.columns : 1;
  float* wide = scratch(Scratch::tiles, most_rows * piece.columns * channels + band.size());
  float* thin = wide + most_rows * piece.columns * channels;
  fill_thin<S>(band, args.thin, args.thin_count, thin);
  const int sweeps = (band.tap_count + kSweep<C> - 1) / kSweep<C>;
  const int64_t frame = piece.sample * plan.grid[0] + piece.t->first + piece.t->step * piece.frame;
  const int64_t thin_row = y.scale * band.columns * band.stride;
  for (int64_t row = 0; row < piece.rows; row += most_rows) {
    const int64_t rows = piece.rows - row < most_rows ? piece.rows - row : most_rows;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t line = (frame * plan.grid[1] + y.first + y.step * (piece.row + row + i)) * plan.grid[2];
      read_wide<S>(args.wide, args.wide_count, line + x.first + x.step * piece.column, x.step, piece.columns, channels,
                   wide + i * piece.columns * channels);
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Rows in{thin + row * thin_row, thin_row, x.scale * band.stride, wide + c, channels, rows, piece.columns};
      for (int n = 0; n < sweeps; ++n) {
        const int begin = band.tap_count * n / sweeps, end = band.tap_count * (n + 1) / sweeps;
        sweep_of<C, kSweep<C>>(end - begin, in, band.taps + begin, product + c, channels);
      }
    }
  }
}

template <class S>
void weight_grad_split(const ThinWeightGrad& args, int64_t split) {
  const ThinPlan& plan = *args.plan;
  float* product = args.product + split * args.split_size();
  std::memset(product, 0, args.split_size() * sizeof(float));
  const int64_t begin = plan.piece_count * split / args.splits, end = plan.piece_count * (split + 1) / args.splits;
  for (int64_t i = begin; i < end; ++i) {
    with_thin(plan.shape.thin_channels, [&](auto c) { add_piece<S, c()>(args, plan.pieces[i], product); });
  }
}

}  // namespace
}  // namespace fi::FI_ISA
