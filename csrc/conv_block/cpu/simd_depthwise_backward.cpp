// Both gradients of depthwise.h in one pass over the maps, or the weight's alone.
#include "conv_block/cpu/depthwise_rows.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kLongChain = 128;  // pixels summed in a row: stock torch sums them all so

// product[k * step] += sum over rows and blocks of pixels of a * g[k]. Chains of even and odd pixels are apart: one
// alone would wait for its own last sum.
template <int K>
__attribute__((noinline)) void sweep(const float* g, int64_t g_row, const float* a, int64_t a_row, int64_t stride,
                                     int64_t rows, int64_t blocks, float* product, int64_t step) {
  constexpr int kChains = K < 5 ? 2 : 1;
  vfloat sum[K][kChains] = {};
  for (int64_t row = 0; row < rows; ++row, g += g_row, a += a_row) {
    const float *gt = g, *at = a;
    for (int64_t block = 0; block < blocks; ++block) {
      vfloat x[kBlock];
#pragma GCC unroll 8
      for (int p = 0; p < kBlock; ++p, at += stride) x[p] = load(at);
      const float* pixel = gt;
#pragma GCC unroll 32
      for (int i = 0; i < kBlock - 1 + K; ++i, pixel += stride) {
        const vfloat upstream = load(pixel);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          const int p = i - k;
          if (p >= 0 && p < kBlock) sum[k][p % kChains] += x[p] * upstream;
        }
      }
      gt += kBlock * stride;
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    float* to = product + k * step;
    store(to, load(to) + (kChains == 2 ? sum[k][0] + sum[k][kChains - 1] : sum[k][0]));
  }
}

// The activations of a piece: of each row the columns of one residue of the stride after those of another, each with
// zeros up to whole blocks.
struct Activations {
  const Depthwise& d;
  const Piece3& piece;
  int64_t stride, row = 0;  // floats of a pixel, and of a row
  int64_t count[kMostStride], blocks[kMostStride], at[kMostStride];

  Activations(const Depthwise& d, const Piece3& piece, int64_t stride) : d(d), piece(piece), stride(stride) {
    for (int j = 0; j < d.map.phases[2]; ++j) {
      const Phase& p = d.map.phase[2][j];
      count[j] = piece.x.size > p.first ? (piece.x.size - p.first + p.step - 1) / p.step : 0;
      blocks[j] = (count[j] + kBlock - 1) / kBlock;
      at[j] = row;
      row += blocks[j] * kBlock * stride;
    }
  }
  int64_t size() const { return piece.y.size * row; }

  void fill(const Source& source, int64_t c, int64_t channels, float* to) const {
    const int64_t frame = (piece.sample * d.map.grid[0] + piece.frame) * d.map.grid[1] + piece.y.begin;
    for (int64_t r = 0; r < piece.y.size; ++r, to += row) {
      for (int j = 0; j < d.map.phases[2]; ++j) {
        const Phase& p = d.map.phase[2][j];
        const int64_t first = (frame + r) * d.map.grid[2] + piece.x.begin + p.first, step = p.step;
        read_rows(source, c, channels, count[j], [=](int64_t i) { return first + i * step; }, to + at[j], stride);
        const int64_t filled = count[j] * stride;
        std::memset(to + at[j] + filled, 0, (blocks[j] * kBlock * stride - filled) * sizeof(float));
      }
    }
  }
};

// Adds what a piece gives to product [taps, packed_row], of the group's channels. upstream: its band of G.
void add_piece(const Activations& a, const DepthwiseBand& band, const float* upstream, const float* values,
               float* product) {
  const Depthwise& d = a.d;
  const int steps = d.map.phases[1];
  for (int i = 0; i < steps; ++i) {
    const Phase& py = d.map.phase[1][i];
    const int64_t rows = (a.piece.y.size - i + steps - 1) / steps, g_row = py.scale * band.columns * band.stride;
    for (int j = 0; j < d.map.phases[2]; ++j) {
      const TapRuns taps = band.taps(d, py, d.map.phase[2][j]);
      const int64_t pixels = a.blocks[j] * kBlock;
      const int64_t most = pixels && kLongChain / pixels > 1 ? kLongChain / pixels : 1;
      for (int64_t row = 0; row < rows && pixels > 0; row += most) {
        const float *g = upstream + row * g_row, *x = values + (row * steps + i) * a.row + a.at[j];
        for (int64_t c = 0; c < a.stride; c += kLanes) {
          with_run(taps.run, 1, [&](auto k, auto) {
            for (int t = 0; t < taps.count; ++t) {
              sweep<k()>(g + taps.offset[t] + c, g_row, x + c, steps * a.row, a.stride,
                         rows - row < most ? rows - row : most, a.blocks[j],
                         product + taps.number[t] * d.packed_row + c, taps.next * d.packed_row);
            }
          });
        }
      }
    }
  }
}

}  // namespace

// item = split * groups + group.
void depthwise_backward(const DepthwiseBackward& args, int64_t item) {
  const Depthwise& d = *args.dgrad;
  const ChannelGroup& group = d.groups[item % d.group_count];
  const int64_t split = item / d.group_count, taps = d.shape->taps();
  const int64_t stride = (group.width + kLanes - 1) / kLanes * kLanes, row_floats = (d.columns + kBlock) * kLineLanes;
  const Target target = rows_of(d.targets[group.target], group);
  // groups that end within a vector would write into each other's
  float* own = scratch(Scratch::results, taps * d.packed_row);
  for (int64_t tap = 0; tap < taps; ++tap) std::memset(own + tap * d.packed_row, 0, stride * sizeof(float));
  const int64_t begin = d.pieces() * split / args.splits, end = d.pieces() * (split + 1) / args.splits;
  for (int64_t number = begin; number < end; ++number) {
    const Piece3 piece = d.piece(number);
    const DepthwiseBand band(d, piece, stride);
    const Activations activations(d, piece, stride);
    float* results = scratch(Scratch::tiles, row_floats + band.size() + activations.size());
    float* upstream = results + row_floats;
    float* values = upstream + band.size();
    band.fill(d.sources[group.source], group.of_source, group.width, upstream);
    activations.fill(*target.source, group.of_target, group.width, values);
    add_piece(activations, band, upstream, values, own);
    if (!target.out) continue;
    run_rows<ActivationGradRows>(ItemRows(d, target, group, piece, band, upstream), number, results);
  }
  float* product = args.product + split * taps * d.packed_row + group.first;
  for (int64_t tap = 0; tap < taps; ++tap) {
    std::memcpy(product + tap * d.packed_row, own + tap * d.packed_row, group.width * sizeof(float));
  }
  end_stream();
}

}  // namespace fi::FI_ISA
