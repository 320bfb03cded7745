// Merges per-block sums in double and in a fixed order, so a result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fi {

// total[i] += the sum over the blocks of partial [blocks, total.size()].
inline void add_blocks(const double* partial, int64_t blocks, std::vector<double>& total) {
  const size_t size = total.size();
  for (int64_t block = 0; block < blocks; ++block, partial += size) {
    for (size_t i = 0; i < size; ++i) total[i] += partial[i];
  }
}

// Sums over the blocks of partial [blocks, 2, channels].
template <class A>
void merge_sums(const std::vector<double>& partial, int64_t channels, A* first, A* second) {
  std::vector<double> total(2 * channels);
  add_blocks(partial.data(), static_cast<int64_t>(partial.size()) / std::max<int64_t>(1, 2 * channels), total);
  std::copy_n(total.begin(), channels, first);
  std::copy_n(total.begin() + channels, channels, second);
}

// Mean and biased variance from each block's count(block) and partial [blocks, 3, channels], an offset and the sums of
// what exceeds it and of its square, merged by the formula of Chan et al. 1979.
template <class A, class Count>
void merge_stats(const std::vector<double>& partial, Count count, int64_t channels, A* mean, A* var) {
  std::vector<double> m(channels), m2(channels);
  const double* part = partial.data();
  const int64_t blocks = static_cast<int64_t>(partial.size()) / (3 * channels);
  double seen = 0;
  for (int64_t block = 0; block < blocks; ++block, part += 3 * channels) {
    const double own = static_cast<double>(count(block)), total = seen + own;
    if (own == 0) continue;
    for (int64_t c = 0; c < channels; ++c) {
      const double sum = part[channels + c], delta = part[c] + sum / own - m[c];
      m[c] += delta * (own / total);
      m2[c] += part[2 * channels + c] - sum * sum / own + delta * delta * (seen * own / total);
    }
    seen = total;
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<A>(m[c]);
    var[c] = static_cast<A>(m2[c] / seen);
  }
}

}  // namespace fi
