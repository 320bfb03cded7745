// One axis of a direct convolution on the CPU: which places of the map that is read reach each place of the one written.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fi {

constexpr int kMostTaps = 7;  // along one axis
constexpr int kMostStride = 2;

// Grid places first + step * j, j < count, of one axis: tap[i] reads band place scale * j + at[i].
struct Phase {
  int first, step, count, scale;
  int taps, tap[kMostTaps], at[kMostTaps];
  int low, high;  // least and greatest of `at`
};

struct Axis {
  int64_t kernel, stride, padding, dilation;
};

// The phases of one axis of `size` grid places; returns how many. Where the grid is the convolution's output, every
// place uses every tap; where it is its input, a stride makes one phase of each residue, with the taps that reach it.
inline int make_phases(const Axis& axis, int64_t size, bool grid_is_output, Phase* phases) {
  const int stride = static_cast<int>(axis.stride), count = grid_is_output ? 1 : stride;
  const int padding = static_cast<int>(axis.padding), dilation = static_cast<int>(axis.dilation);
  for (int residue = 0; residue < count; ++residue) {
    Phase& p = phases[residue];
    p = {};
    p.first = residue;
    p.step = count;
    p.count = static_cast<int>((size - residue + count - 1) / count);
    p.scale = grid_is_output ? stride : 1;
    for (int k = 0; k < axis.kernel; ++k) {
      const int reach = residue + padding - dilation * k;  // of the input, before division by the stride
      if (!grid_is_output && reach % stride != 0) continue;
      p.tap[p.taps] = k;
      p.at[p.taps++] = grid_is_output ? dilation * k - padding : reach / stride;
    }
    for (int i = 0; i < p.taps; ++i) {
      p.low = i ? std::min(p.low, p.at[i]) : p.at[i];
      p.high = i ? std::max(p.high, p.at[i]) : p.at[i];
    }
  }
  return count;
}

}  // namespace fi
