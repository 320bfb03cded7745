// The activations of rows of channels at some pixels, and their backward: what direct convolutions do around their
// products. One unit has them for all activations: in the units of the products each would be compiled once more.
#pragma once

#include "norm_act/cpu.h"

namespace fi {

// rows[i * stride + k] = act(rows[i * stride + k]) + addend[pixel[i] * channels + k], k < width and i < count. addend
// may be null. Rows of negative pixels are left alone.
struct ActRows {
  Act act;
  float parameter;
  const float* addend;
  int64_t channels, width, stride, count;
  const int64_t* pixel;
  float* rows;
};

// dz = results[i * row] * act'(z), z = (x - mean) * scale + shift, dx = dz * scale, for n channels of one vector at
// each pixel[i]; daddend, which may be null, takes the results. sums [2, vector] takes those of dz and dz * (x - mean).
// past_caches: as of `put`, whose line is the results'.
struct GradRows {
  Act act;
  float parameter;
  bool affine;     // else z = x, and without an activation x is not read
  const float* x;  // at the first channel, as out and daddend
  float *out, *daddend;
  int64_t channels, n;
  const float* vectors;  // [3, vector]: mean, scale and shift
  bool past_caches;
};

FI_DECLARE_EACH_ISA(void act_rows(const ActRows&))
FI_DECLARE_EACH_ISA(void grad_rows(const GradRows&, float* results, int64_t row, const int64_t* pixel,
                                   int64_t count, float* sums))

}  // namespace fi
