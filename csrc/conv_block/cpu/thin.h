// Direct convolutions on the CPU between a wide map, of a multiple of 16 channels, and a thin one, of 1 to 4. See
// docs/cpu.md.
//
//     widen              the wide map from the thin one: forward where few channels become many, and the data gradient
//                        where many become few
//     narrow             the thin map from the wide one: the other way about
//     thin_weight_grad   the sum over wide pixels of what they take by each tap times their gradient, or of the
//                        gradients they reach times what they give
//
// Each walks the places of one map, the grid, and reads the other, the band, through the taps. Where the grid is the
// convolution's output, every place uses every tap; where it is its input, a stride makes one phase of each residue,
// with the taps that reach it.
#pragma once

#include <cstdint>

#include "conv_block/cpu/phases.h"
#include "conv_block/cpu/winograd.h"

namespace fi {

constexpr int kThin = 4;  // most channels of the thin map, and floats of its pixels in scratch memory
// As the caller gives it. Axes: t, h, w; 2D is one frame and one tap in time.
struct ThinShape {
  int64_t batch, wide_channels, thin_channels;
  int64_t wide[3], thin[3];  // sizes
  int64_t kernel[3], stride[3], padding[3], dilation[3];
  int64_t thin_out;  // 1: the convolution's output is the thin map
};

// A work item: some rows and columns j of one frame's grid, in one phase of each axis.
struct Piece {
  int sample, frame, row, rows, column, columns;
  const Phase *t, *y, *x;
};

struct ThinPlan {
  ThinShape shape;
  int64_t grid[3], band[3];
  Phase phase[3][kMostStride];
  int phases[3];
  const Piece* pieces;
  int64_t piece_count;

  int64_t pixels() const { return shape.batch * grid[0] * grid[1] * grid[2]; }  // of the wide map
  int64_t taps() const { return shape.kernel[0] * shape.kernel[1] * shape.kernel[2]; }
};

// Targets' wide maps from the thin activation of the sources; `sums` of a target are per piece. packed: by pack_widen.
struct Widen {
  const ThinPlan* plan;
  const Source* sources;
  int source_count;
  const Target* targets;
  int target_count;
  const float* packed;
};

// out [pixels, thin_channels] = correlation of the wide sources + bias (or null). packed: by pack_narrow.
struct Narrow {
  const ThinPlan* plan;
  const Source* sources;
  int source_count;
  void* out;
  const float* bias;
  const float* packed;
};

// product [splits, taps, thin_channels, wide_channels]; an item sums one split of the pieces.
struct ThinWeightGrad {
  const ThinPlan* plan;
  const Source *wide, *thin;
  int wide_count, thin_count;
  float* product;
  int64_t splits;

  int64_t split_size() const { return plan->taps() * plan->shape.thin_channels * plan->shape.wide_channels; }
};

// A packed weight takes taps * thin_channels * wide_channels floats. `Taps` here: in is the thin map's channel, out the
// wide one's.
FI_DECLARE_EACH_ISA(void pack_widen(const Widen&, const Taps&, float* packed))
FI_DECLARE_EACH_ISA(void pack_narrow(const Narrow&, const Taps&, float* packed))
FI_DECLARE_EACH_ISA(void widen(const Widen&, int64_t piece))
FI_DECLARE_EACH_ISA(void narrow(const Narrow&, int64_t piece))
FI_DECLARE_EACH_ISA(void thin_weight_grad(const ThinWeightGrad&, int64_t split))
// The same for bfloat16 maps, multiplied in float; weights are float32.
FI_DECLARE_BF16(void pack_widen_bf16(const Widen&, const Taps&, float* packed))
FI_DECLARE_BF16(void pack_narrow_bf16(const Narrow&, const Taps&, float* packed))
FI_DECLARE_BF16(void widen_bf16(const Widen&, int64_t piece))
FI_DECLARE_BF16(void narrow_bf16(const Narrow&, int64_t piece))
FI_DECLARE_BF16(void thin_weight_grad_bf16(const ThinWeightGrad&, int64_t split))

}  // namespace fi
