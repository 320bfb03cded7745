// What the data gradients of the convolutions on the CPU write.
#pragma once

#include <vector>

#include "activation/cpu_merge.h"
#include "conv_block/cpu/winograd.h"

namespace fi {

// Targets for the gradients of sources of so many pixels, and their sums of `blocks` blocks each. A source without dx
// has no target, or one that is not written where `all` are wanted.
class GradTargets {
 public:
  std::vector<Target> list;

  GradTargets(const Source* sources, int count, const SourceGrads* grads, int64_t pixels, int64_t blocks,
              bool all = false)
      : sources_(sources), grads_(grads), sums_(count) {
    int64_t first = 0;
    for (int i = 0; i < count; first += sources[i++].channels) {
      const SourceGrads& to = grads[i];
      if (!to.dx && !all) continue;
      const int64_t channels = sources[i].channels, values = pixels * channels;
      if (to.dx && sources[i].mean) sums_[i].resize(blocks * 2 * channels);
      list.push_back({to.dx, channels, first, nullptr, sums_[i].empty() ? nullptr : sums_[i].data(), &sources[i],
                      to.daddend, leaves_caches(to.dx, values) && leaves_caches(to.daddend, values)});
    }
  }
  GradTargets(const GradTargets&) = delete;

  int count() const { return static_cast<int>(list.size()); }
  // Adds up the sums of all blocks, in their order.
  void merge() const {
    for (size_t i = 0; i < sums_.size(); ++i) {
      if (sums_[i].empty()) continue;
      const SourceGrads& to = grads_[i];
      merge_sums(sums_[i], sources_[i].channels, to.dshift, to.dscale);
      const auto* scale = static_cast<const float*>(sources_[i].scale);
      for (int64_t c = 0; c < sources_[i].channels; ++c) to.dmean[c] = -scale[c] * to.dshift[c];
    }
  }

 private:
  const Source* sources_;
  const SourceGrads* grads_;
  std::vector<std::vector<double>> sums_;
};

}  // namespace fi
