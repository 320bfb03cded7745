// Convolutions on the CPU as matrix products: [pixels, taps * channels_in] x [taps * channels_in, channels_out], any
// number of channels. See docs/cpu.md.
//
// A work item is a tile of pixels of the grid and some chunks of output channels. It reads the activations that its
// pixels' taps reach into rows of scratch memory, with zeros for the padding, and multiplies them by packed weights.
// The depth of the product, taps times channels, is cut into parts: some channels of one source for one tap. Slices of
// at most kDepth values of depth lie apart, for the caches. A stride makes one phase of each residue in the data
// gradient, with the taps that reach it.
#pragma once

#include "conv_block/cpu/direct.h"

namespace fi {

constexpr int kPhaseProduct = 8;               // phases of three axes
constexpr int64_t kMostPixels = 112;           // of a tile
constexpr int64_t kColumns = 256;              // output channels of an item of the weight gradient
constexpr int64_t kColumnRow = kColumns + 16;  // floats between its rows; off a power of two, for the caches

// Channels [channel, channel + width) of a source for one tap: values [at, at + width) of a slice.
struct DepthPart {
  int source;
  int64_t channel, first;  // in the source, and among the convolution's
  int64_t width;
  int tap[3], offset[3];  // in the kernel; band place minus scale * j of the grid's, t, y, x
  int64_t slice, at;
};

// The grid's places of one residue a stride, and the depth of their product.
struct MatmulPhase {
  const Phase* axis[3];
  const DepthPart* parts;
  int64_t part_count, slices, depth;  // depth: of all slices
  const int64_t* slice_depth;         // [slices]
  int64_t first_depth;                // of the packed weight, before this phase
  int64_t first_tile, pixels;

  int64_t count(int a) const { return axis[a]->count; }
};

// Forward and data gradient. packed: for each phase and chunk of kChunk channels [depth, kChunk]. `sums` of a target
// are per tile.
struct Matmul {
  const DirectShape* shape;
  Correspondence map;
  const Source* sources;  // of the band
  const Target* targets;  // the grid's
  int target_count;
  const MatmulPhase* phases;
  int phase_count;
  int64_t tile_pixels, tiles, chunks, part, slices;  // chunks: of all targets; part: of an item; slices: the most
  const float* packed;
  int threads;    // on which items run
  bool in_place;  // whether a pixel of the grid reads the same pixel of the band, and no other

  int64_t parts() const { return (chunks + part - 1) / part; }
  int64_t items() const { return tiles * parts(); }
  // Of a tile of the phase.
  int64_t pixels_of(const MatmulPhase& p, int64_t tile) const {
    const int64_t rest = p.pixels - (tile - p.first_tile) * tile_pixels;
    return rest < tile_pixels ? rest : tile_pixels;
  }
};

// product [items, kDepth, kColumnRow]; an item sums one split of the output's pixels for one slice of the depth and
// kColumns channels.
struct MatmulWeightGrad {
  const Matmul* forward;
  Source upstream;
  float* product;
  int64_t splits, column_blocks;

  int64_t pieces() const { return forward->slices * column_blocks; }  // items of a split
};

// Both gradients of one tap in place: each pixel of the input meets one of the output. An item is a split of the data
// gradient's tiles. Of each tile it activates x and makes G once, for both.
struct MatmulBackward {
  const Matmul* dgrad;
  MatmulWeightGrad weight_grad;  // whose items sum the pixels of a split
};

FI_DECLARE_EACH_ISA(void matmul_chunk(int64_t* channels))
FI_DECLARE_EACH_ISA(void pack_matmul(const Matmul&, const Taps&, int64_t item, float* packed))
FI_DECLARE_EACH_ISA(void matmul(const Matmul&, int64_t item))
FI_DECLARE_EACH_ISA(void matmul_weight_grad(const MatmulWeightGrad&, int64_t item))
FI_DECLARE_EACH_ISA(void matmul_backward(const MatmulBackward&, int64_t split))

}  // namespace fi

// What `layer.cpp` calls: see the definitions.
FI_EXPORT int fi_cpu_matmul_fwd(const fi::DirectShape* shape, const fi::Source* sources, int count, const float* weight,
                                const int64_t* strides, const float* bias, float* y, float* mean, float* var,
                                int threads);
FI_EXPORT int fi_cpu_matmul_bwd(const fi::DirectShape* shape, const fi::Source* upstream, const float* weight,
                                const int64_t* strides, const fi::Source* sources, int count,
                                const fi::SourceGrads* grads, float* dweight, const int64_t* wstrides, int threads);
