// The register block of `widen`: some pixels times some vectors of wide channels. For simd_*.cpp.
#pragma once

#include "conv_block/cpu/thin_band.h"

namespace {

constexpr int kSums = FI_BYTES == 64 ? 16 : 8;        // of a register block: pixels times vectors
constexpr int kMostVectors = FI_BYTES == 64 ? 4 : 2;  // of wide channels

// Taps that lie side by side, if their weights and all sums fit into the registers; else one at a time.
template <int V, int STEP, int RUN>
constexpr int kRun = !kGeneralOnly && STEP == fi::kThin && RUN * V + kSums < (FI_BYTES == 64 ? 32 : 16) ? RUN : 1;

// sum[p][v] = sum over the taps of packed[tap, c, v] * from[p * STEP + tap.offset + c]. The taps come in runs of K that
// lie side by side: a thin value is read once for all of them.
template <int V, int STEP, int K>
FI_INLINE void multiply(const float* from, const Tap* tap, const Tap* end, const float* packed, int64_t channels,
                        vfloat (&sum)[kSums / V][V]) {
  constexpr int P = kSums / V;
  const int64_t weights = channels * V * kLanes;  // of a tap
  for (; tap < end; tap += K) {
    const int64_t next = K > 1 ? (tap[1].number - tap[0].number) * weights : 0;
    const float* a = opaque(from + tap->offset);
    const float* w = opaque(packed + tap->number * weights);
#pragma GCC unroll 1
    for (const float* last = a + channels; a < last; ++a, w += V * kLanes) {
      vfloat b[K][V];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[k][v] = load(w + k * next + v * kLanes);
      }
#pragma GCC unroll 32
      for (int i = 0; i < P + K - 1; ++i) {
        const vfloat x = a[i * STEP] - vfloat{};  // in every lane
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          if (i < k || i - k >= P) continue;
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[i - k][v] += b[k][v] * x;
        }
      }
    }
  }
}

// to[p * to_step + v * kLanes] = add[p * add_step + v * kLanes] + `multiply`, for `blocks` blocks of pixels in a row
// that all add the same; past the caches where asked. Not inline: what its callers hold would push the sums out of the
// registers.
template <int V, int STEP, int K>
__attribute__((noinline)) void block_pass(const float* from, const Tap* tap, const Tap* end, const float* packed,
                                          int64_t channels, const float* add, int64_t add_step, float* to,
                                          int64_t to_step, int64_t blocks = 1, bool past_caches = false) {
  constexpr int P = kSums / V;
  for (; blocks > 0; --blocks, from += P * STEP, to += P * to_step) {
    vfloat sum[P][V] = {};
    multiply<V, STEP, K>(from, tap, end, packed, channels, sum);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] += load(add + p * add_step + v * kLanes);
    }
    auto write = [&](auto put) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) put(to + p * to_step + v * kLanes, sum[p][v]);
      }
    };
    past_caches ? write([](float* at, vfloat v) { stream(at, v); }) : write([](float* at, vfloat v) { store(at, v); });
  }
}

// Taps of a chain of kLongChain products, whole runs of them.
template <int K>
int64_t long_runs(int64_t channels) {
  return kLongChain / channels / K * K;
}

// to = multiply + bias, in chains of `long_runs` taps. bias [V * kLanes]; rows of `to` are to_step apart.
template <int V, int STEP, int K>
FI_INLINE void block(const float* from, const Band& band, const float* packed, int64_t channels, const float* bias,
                     float* to, int64_t to_step) {
  const int64_t chain = long_runs<K>(channels);
  const Tap *tap = band.taps, *last = tap + band.tap_count;
  alignas(64) float total[kSums * kLanes];
  const float* add = bias;
  int64_t add_step = 0;
  for (; last - tap > chain; tap += chain, add = total, add_step = V * kLanes) {
    block_pass<V, STEP, K>(from, tap, tap + chain, packed, channels, add, add_step, total, V * kLanes);
  }
  block_pass<V, STEP, K>(from, tap, last, packed, channels, add, add_step, to, to_step);
}

}  // namespace
