// The weight gradient of matmul.h: dw = sum over the output's pixels of the activations' row times G's.
#include "conv_block/cpu/matmul_tile.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kBatch = kChain;  // pixels of one product

}  // namespace

// item = (split * slices + slice) * column_blocks + column block.
void matmul_weight_grad(const MatmulWeightGrad& args, int64_t item) {
  const Matmul& m = *args.forward;
  const MatmulPhase& p = m.phases[0];
  const int64_t column = item % args.column_blocks * kColumns, slice = item / args.column_blocks % p.slices;
  const int64_t split = item / args.column_blocks / p.slices, channels = m.shape->channels_out;
  const int64_t width = channels - column < kColumns ? channels - column : kColumns;
  float* values = scratch(Scratch::tiles, kBatch * (kRow + kColumnRow) + kLanes);
  float* upstream = values + kBatch * kRow;
  float* product_of = args.product + item * kDepth * kColumnRow;
  const int64_t depth = p.slice_depth[slice];
  const int64_t begin = p.pixels * split / args.splits, end = p.pixels * (split + 1) / args.splits;
  for (int64_t first = begin; first < end; first += kBatch) {
    const int64_t count = end - first < kBatch ? end - first : kBatch;
    const TilePixels pixels(m, p, first, count);
    fill_tile(m, p, pixels, slice, slice + 1, 0, kRow, values);
    read_rows(args.upstream, column, width, count, [=](int64_t i) { return first + i; }, upstream, kColumnRow);
    Ahead ahead(values);
    const int64_t next = first + count, coming = end - next < kBatch ? end - next : kBatch;
    if (coming > 0) {
      ahead.add(args.upstream, column, width, next, coming);
      if (m.in_place) expect_parts(ahead, m, p, slice, slice + 1, next, coming);
    }
    for (int64_t n = 0; n < width; n += kChunk) {
      product<1, kRow, kColumnRow>(values, upstream + n, count, product_of + n, kColumnRow, first > begin, depth,
                                   width - n > kLanes, ahead);
    }
  }
}

}  // namespace fi::FI_ISA
