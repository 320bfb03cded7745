// Merges per-block sums in double and in a fixed order, so a result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fi {

// Sums over the blocks of partial [blocks, 2, channels], which has `size` values.
template <class A>
void merge_sums(const A* partial, size_t size, int64_t channels, A* first, A* second) {
    std::vector<double> total(2 * channels);
    for (size_t i = 0; i < size; ++i) total[i % (2 * channels)] += partial[i];
    std::copy_n(total.begin(), channels, first);
    std::copy_n(total.begin() + channels, channels, second);
}

// Chan et al. 1979: mean and biased variance from each block's count(block) and partial [blocks, 2, channels], its mean
// and M2.
template <class A, class Count>
void merge_stats(const A* partial, int64_t blocks, Count count, int64_t channels, A* mean, A* var) {
    std::vector<double> m(channels), m2(channels);
    double seen = 0;
    for (int64_t block = 0; block < blocks; ++block, partial += 2 * channels) {
        const double own = static_cast<double>(count(block)), total = seen + own;
        if (own == 0) continue;
        for (int64_t c = 0; c < channels; ++c) {
            const double delta = partial[c] - m[c];
            m[c] += delta * (own / total);
            m2[c] += partial[channels + c] + delta * delta * (seen * own / total);
        }
        seen = total;
    }
    for (int64_t c = 0; c < channels; ++c) {
        mean[c] = static_cast<A>(m[c]);
        var[c] = static_cast<A>(m2[c] / seen);
    }
}

}  // namespace fi
