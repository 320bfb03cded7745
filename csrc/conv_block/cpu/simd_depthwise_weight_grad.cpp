// The weight gradient of depthwise.h: dw[tap] = sum over the pixels of G * a[where the tap reads].
#include "conv_block/cpu/depthwise_band.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kLongChain = 128;  // pixels summed in a row: stock torch sums them all so

// product[k * next * w_row] += sum over rows and blocks of pixels of g * a[k]. Chains of even and odd pixels are apart:
// one alone would wait for its own last sum.
template <int K, int S>
__attribute__((noinline)) void sweep(const float* a, int64_t a_row, const float* g, int64_t g_row, int64_t stride,
                                     int64_t rows, int64_t blocks, float* product, int64_t step) {
  constexpr int kChains = K < 5 ? 2 : 1;
  vfloat sum[K][kChains] = {};
  for (int64_t row = 0; row < rows; ++row, a += a_row, g += g_row) {
    const float *at = a, *gt = g;
    for (int64_t block = 0; block < blocks; ++block) {
      vfloat upstream[kBlock];
#pragma GCC unroll 8
      for (int p = 0; p < kBlock; ++p, gt += stride) upstream[p] = load(gt);
      const float* pixel = at;
#pragma GCC unroll 32
      for (int i = 0; i < (kBlock - 1) * S + K; ++i, pixel += stride) {
        if (K < S && i % S >= K) continue;
        const vfloat x = load(pixel);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          const int p = (i - k) / S;
          if (i >= k && (i - k) % S == 0 && p < kBlock) sum[k][p % kChains] += upstream[p] * x;
        }
      }
      at += kBlock * S * stride;
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    float* to = product + k * step;
    store(to, load(to) + (kChains == 2 ? sum[k][0] + sum[k][kChains - 1] : sum[k][0]));
  }
}

// Adds what one piece of the output gives to product [taps, packed_row], from the group's first channel on.
void add_piece(const DepthwiseWeightGrad& args, const ChannelGroup& group, const Piece3& piece, float* product) {
  const Depthwise& d = *args.forward;
  const int64_t stride = (group.width + kLanes - 1) / kLanes * kLanes;
  const DepthwiseBand band(d, piece, stride);
  const Phase &py = d.map.phase[1][0], &px = d.map.phase[2][0];
  const TapRuns taps = band.taps(d, py, px);
  if (taps.count == 0) return;
  const int64_t blocks = (piece.x.size + kBlock - 1) / kBlock, g_row = blocks * kBlock * stride;
  float* upstream = scratch(Scratch::tiles, piece.y.size * g_row + band.size());
  float* values = upstream + piece.y.size * g_row;
  band.fill(d.sources[group.source], group.of_source, group.width, values);
  const int64_t frame = (piece.sample * d.map.grid[0] + piece.frame) * d.map.grid[1];
  for (int64_t row = 0; row < piece.y.size; ++row) {
    float* to = upstream + row * g_row;
    const int64_t pixel = (frame + piece.y.begin + row) * d.map.grid[2] + piece.x.begin;
    read_rows(args.upstream, group.first, group.width, piece.x.size, [=](int64_t i) { return pixel + i; }, to, stride);
    std::memset(to + piece.x.size * stride, 0, (g_row - piece.x.size * stride) * sizeof(float));
  }
  const int64_t most_rows = kLongChain / (blocks * kBlock) > 1 ? kLongChain / (blocks * kBlock) : 1;
  const int64_t a_row = py.scale * band.columns * stride;
  for (int64_t row = 0; row < piece.y.size; row += most_rows) {
    const int64_t rows = piece.y.size - row < most_rows ? piece.y.size - row : most_rows;
    for (int64_t c = 0; c < stride; c += kLanes) {
      with_run(taps.run, px.scale, [&](auto k, auto s) {
        for (int t = 0; t < taps.count; ++t) {
          sweep<k(), s()>(values + row * a_row + taps.offset[t] + c, a_row, upstream + row * g_row + c, g_row, stride,
                          rows, blocks, product + taps.number[t] * d.packed_row + c, taps.next * d.packed_row);
        }
      });
    }
  }
}

}  // namespace

// item = split * groups + group.
void depthwise_weight_grad(const DepthwiseWeightGrad& args, int64_t item) {
  const Depthwise& d = *args.forward;
  const ChannelGroup& group = d.groups[item % d.group_count];
  const int64_t split = item / d.group_count, taps = d.shape->taps();
  const int64_t width = (group.width + kLanes - 1) / kLanes * kLanes;
  // groups that end within a vector would write into each other's
  float* own = scratch(Scratch::results, taps * d.packed_row);
  for (int64_t tap = 0; tap < taps; ++tap) std::memset(own + tap * d.packed_row, 0, width * sizeof(float));
  const int64_t begin = d.pieces() * split / args.splits, end = d.pieces() * (split + 1) / args.splits;
  for (int64_t i = begin; i < end; ++i) add_piece(args, group, d.piece(i), own);
  float* product = args.product + split * taps * d.packed_row + group.first;
  for (int64_t tap = 0; tap < taps; ++tap) {
    std::memcpy(product + tap * d.packed_row, own + tap * d.packed_row, group.width * sizeof(float));
  }
}

}  // namespace fi::FI_ISA
