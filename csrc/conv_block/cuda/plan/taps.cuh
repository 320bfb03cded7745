// The position that each tap reads, computed on the host for every kind of convolution.
//
// An axis is read directly or inversely. Direct (forward of a convolution, dgrad of a transposed one): `out` reads
// position out * stride - padding + k * dilation. Inverse (the other two): `out` reads the positions whose direct image
// is `out`. An inverse axis splits into `stride` phases; in each, out = phase + stride * j and the tap reads j +
// offset. In all cases position j of a phase reads j * step + offset:
//
//   direct:   one phase, step = stride, offset = k * dilation - padding
//   inverse:  phase p has the taps with (p + padding - k * dilation) % stride == 0, step = 1,
//             offset = (p + padding - k * dilation) / stride
#pragma once
#include <algorithm>

#include "conv_block/cuda/abi.cuh"

namespace fi {

constexpr int kMaxTaps = 128, kMaxPhases = 27;

struct Tap {
  int16_t t, h, w;  // offset of the position it reads
  uint8_t index;    // in the kernel, kT major
  uint8_t group;    // taps of one group read one patch
};

struct Phase {
  int16_t origin[3];
  int16_t first, taps;
};

struct TapTable {
  int step[3], out_step[3];
  int phases, taps;
  Phase phase[kMaxPhases];
  Tap tap[kMaxTaps];
};

// Returns false if the kernel has more taps or phases than the table.
inline bool make_taps(const Conv& conv, bool inverse, TapTable& table) {
  int phases[3];
  table.taps = table.phases = 0;
  for (int d = 0; d < 3; ++d) {
    table.step[d] = inverse ? 1 : conv.stride[d];
    table.out_step[d] = phases[d] = inverse ? conv.stride[d] : 1;
  }
  if (phases[0] * phases[1] * phases[2] > kMaxPhases) return false;
  if (conv.kernel[0] * conv.kernel[1] * conv.kernel[2] > kMaxTaps) return false;
  for (int p = 0; p < phases[0] * phases[1] * phases[2]; ++p) {
    Phase& phase = table.phase[table.phases++];
    int origin[3] = {p / (phases[1] * phases[2]), p / phases[2] % phases[1], p % phases[2]};
    for (int d = 0; d < 3; ++d) phase.origin[d] = int16_t(origin[d]);
    phase.first = int16_t(table.taps);
    for (int k = 0; k < conv.kernel[0] * conv.kernel[1] * conv.kernel[2]; ++k) {
      int at[3] = {k / (conv.kernel[1] * conv.kernel[2]), k / conv.kernel[2] % conv.kernel[1], k % conv.kernel[2]};
      int offset[3];
      bool has = true;
      for (int d = 0; d < 3; ++d) {
        offset[d] = at[d] * conv.dilation[d] - conv.padding[d];
        if (!inverse) continue;
        int apart = origin[d] - offset[d];
        has = has && apart % conv.stride[d] == 0;
        offset[d] = apart / conv.stride[d];
      }
      if (has) table.tap[table.taps++] = {int16_t(offset[0]), int16_t(offset[1]), int16_t(offset[2]), uint8_t(k), 0};
    }
    phase.taps = int16_t(table.taps - phase.first);
  }
  return true;
}

// Exchanges the order of each phase's taps: of an inverse axis they then read ascending positions.
inline void reverse_taps(TapTable& table) {
  for (int p = 0; p < table.phases; ++p) {
    Tap* first = table.tap + table.phase[p].first;
    std::reverse(first, first + table.phase[p].taps);
  }
}

}  // namespace fi
