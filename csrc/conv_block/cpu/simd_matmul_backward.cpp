// Both gradients of matmul.h in one pass over the maps.
#include "conv_block/cpu/matmul_tile.h"

namespace fi::FI_ISA {

static_assert(kColumns == kDepth && kColumnRow == kRow, "a slice of G is a block of the weight gradient's columns");

void matmul_backward(const MatmulBackward& args, int64_t split) {
  const Matmul &d = *args.dgrad, &f = *args.weight_grad.forward;
  const MatmulPhase &g = d.phases[0], &a = f.phases[0];
  const int64_t slab = d.tile_pixels * kRow;
  float* results = scratch(Scratch::tiles, kStep * kChunk + (g.slices + a.slices) * slab + kLanes);
  float* upstream = results + kStep * kChunk;
  float* values = upstream + g.slices * slab;
  float* product_of = args.weight_grad.product + split * args.weight_grad.pieces() * kDepth * kColumnRow;
  const int64_t begin = d.tiles * split / args.weight_grad.splits;
  const int64_t end = d.tiles * (split + 1) / args.weight_grad.splits;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePixels pixels(d, g, tile * d.tile_pixels, d.pixels_of(g, tile));
    fill_tile(d, g, pixels, 0, g.slices, slab, kRow, upstream);
    fill_tile(f, a, pixels, 0, a.slices, slab, kRow, values);
    Ahead ahead(upstream);
    if (tile + 1 < end) {
      const int64_t first = (tile + 1) * d.tile_pixels, count = d.pixels_of(g, tile + 1);
      expect_parts(ahead, d, g, 0, g.slices, first, count);
      expect_parts(ahead, f, a, 0, a.slices, first, count);
    }
    multiply_tile(d, g, pixels, tile, 0, d.chunks, upstream, results, ahead);
    float* to = product_of;
    for (int64_t s = 0; s < a.slices; ++s) {
      for (int64_t block = 0; block < g.slices; ++block, to += kDepth * kColumnRow) {
        const int64_t width = g.slice_depth[block];
        for (int64_t n = 0; n < width; n += kChunk) {
          product<1, kRow, kRow>(values + s * slab, upstream + block * slab + n, pixels.count, to + n, kColumnRow,
                                 tile > begin, a.slice_depth[s], width - n > kLanes, ahead);
        }
      }
    }
  }
  end_stream();
}

}  // namespace fi::FI_ISA
