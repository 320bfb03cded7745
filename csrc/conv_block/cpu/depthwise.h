// Depthwise convolutions on the CPU: y[c] = the correlation of a[c] with weight[c], any number of channels. See
// docs/cpu.md.
//
// A work item is some rows and columns of one frame of the grid, for up to 64 channels. The rows of the band that its
// taps reach are activated once into scratch memory, with zeros for the padding, so that the taps test for no edges.
// Vectors lie along the channels.
#pragma once

#include "conv_block/cpu/direct.h"

namespace fi {

constexpr int64_t kGroup = 64;           // channels of an item
constexpr int kMostDepthwiseTaps = 128;  // of the kernel: products are summed in one chain

// Channels that lie in one source and in one target.
struct ChannelGroup {
  int source, target;
  int64_t of_source, of_target;  // its first channel there
  int64_t first, width;          // its first among the convolution's
};

// Places of the grid along one axis, and those of the band that their taps reach.
struct Span {
  int64_t begin, size, low, count;
};

struct Piece3 {
  int64_t sample, frame;
  Span y, x;
};

// Both passes. packed [taps, packed_row]. `sums` of a target are per piece.
struct Depthwise {
  const DirectShape* shape;
  Correspondence map;
  const Source* sources;  // of the band
  const Target* targets;  // the grid's
  const ChannelGroup* groups;
  int64_t group_count;
  int64_t rows, columns;  // of a piece
  const float* packed;
  int64_t packed_row;

  int64_t row_blocks() const { return (map.grid[1] + rows - 1) / rows; }
  int64_t column_blocks() const { return (map.grid[2] + columns - 1) / columns; }
  int64_t pieces() const { return shape->batch * map.grid[0] * row_blocks() * column_blocks(); }
  Piece3 piece(int64_t number) const;
};

// Both gradients, of which the weight's is taken over the pieces of the input. A target whose out is null is left out.
// product [splits, taps, packed_row]; an item is one split of the pieces for one group of channels.
struct DepthwiseBackward {
  const Depthwise* dgrad;
  float* product;
  int64_t splits;
};

FI_DECLARE_EACH_ISA(void depthwise(const Depthwise&, int64_t item))
FI_DECLARE_EACH_ISA(void depthwise_backward(const DepthwiseBackward&, int64_t item))

}  // namespace fi

// What `layer.cpp` calls: see the definitions.
FI_EXPORT int fi_cpu_depthwise_fwd(const fi::DirectShape* shape, const fi::Source* sources, int count,
                                   const float* weight, const int64_t* strides, const float* bias, float* y,
                                   float* mean, float* var, int threads);
FI_EXPORT int fi_cpu_depthwise_bwd(const fi::DirectShape* shape, const fi::Source* upstream, const float* weight,
                                   const int64_t* strides, const fi::Source* sources, int count,
                                   const fi::SourceGrads* grads, float* dweight, const int64_t* wstrides, int threads);
