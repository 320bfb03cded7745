// What the direct convolutions on the CPU share: the problem, and its view as a correlation from a band to a grid.
//
// The grid is the map that is written, the band the one that is read through the taps: forward reads the activation and
// writes y, the data gradient reads G and writes the activation's gradient. Axes: t, h, w; 2D is one frame and one tap
// in time.
#pragma once

#include "conv_block/cpu/winograd.h"
#include "conv_block/cpu/phases.h"

namespace fi {

// As the caller gives it.
struct DirectShape {
  int64_t batch, channels_in, channels_out, groups;
  int64_t in[3], out[3];  // sizes of the input and the output
  int64_t kernel[3], stride[3], padding[3], dilation[3];

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pixels_in() const { return batch * in[0] * in[1] * in[2]; }
  int64_t pixels_out() const { return batch * out[0] * out[1] * out[2]; }
};

struct Correspondence {
  int64_t grid[3], band[3];
  Phase phase[3][kMostStride];
  int phases[3];
};

inline Correspondence correspondence(const DirectShape& shape, bool backward) {
  Correspondence c{};
  for (int axis = 0; axis < 3; ++axis) {
    c.grid[axis] = backward ? shape.in[axis] : shape.out[axis];
    c.band[axis] = backward ? shape.out[axis] : shape.in[axis];
    const Axis a{shape.kernel[axis], shape.stride[axis], shape.padding[axis], shape.dilation[axis]};
    c.phases[axis] = make_phases(a, c.grid[axis], !backward, c.phase[axis]);
  }
  return c;
}

}  // namespace fi
