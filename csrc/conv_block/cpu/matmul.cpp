// Entry points of the convolutions of matmul.h: float32, channels-last, one group. Each returns 0. Work is cut into
// tiles by sizes alone and sums are merged in a fixed order, so a result does not depend on the number of threads.
#include "conv_block/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"
#include "conv_block/cpu/grad_targets.h"

namespace fi {
namespace {

constexpr int64_t kTileFloats = 64 << 10;  // activations of a tile: a quarter of the second cache, which may be shared
constexpr int64_t kTileStep = 14;          // pixels of a register block
constexpr int64_t kLeastPixels = 28;
constexpr int64_t kSplits = 32;
constexpr int64_t kSplitPixels = 256;         // least of a split
constexpr int64_t kOnePassPixels = 4096;      // least that gain from one pass
constexpr int64_t kCachedWeights = 32 << 10;  // of the sums of a split, beside a tile
constexpr int64_t kMergeRows = 16;            // of the weight gradient's product, summed at a time

// Whether each pixel of the input meets the same pixel of the output, and no other.
bool is_in_place(const DirectShape& shape) {
  bool same = shape.taps() == 1;
  for (int a = 0; a < 3; ++a) same = same && shape.in[a] == shape.out[a] && shape.padding[a] == 0;
  return same;
}

// A problem and the memory it points at.
struct Planned {
  Matmul m{};
  std::vector<MatmulPhase> phases;
  std::vector<std::vector<DepthPart>> parts;
  std::vector<std::vector<int64_t>> depths;

  // beside: slices of other rows that a tile's share the second cache with.
  Planned(const DirectShape* shape, bool backward, const Source* sources, int source_count, int64_t beside = 0) {
    m.shape = shape;
    m.map = correspondence(*shape, backward);
    m.sources = sources;
    m.in_place = is_in_place(*shape);
    parts.resize(kPhaseProduct);
    depths.resize(kPhaseProduct);
    int64_t first_depth = 0;
    for (int t = 0; t < m.map.phases[0]; ++t)
      for (int y = 0; y < m.map.phases[1]; ++y)
        for (int x = 0; x < m.map.phases[2]; ++x) {
          const Phase* axis[3] = {&m.map.phase[0][t], &m.map.phase[1][y], &m.map.phase[2][x]};
          const int64_t pixels = shape->batch * axis[0]->count * axis[1]->count * axis[2]->count;
          if (pixels > 0) add_phase(axis, pixels, source_count, first_depth);
        }
    m.phases = phases.data();
    m.phase_count = static_cast<int>(phases.size());
    const int64_t room = kTileFloats / std::max<int64_t>(1, (m.slices + beside) * kRow);
    const int64_t most = std::clamp(room / kTileStep * kTileStep, kLeastPixels, kMostPixels);
    const int64_t pixels = phases[0].pixels, tiles = (pixels + most - 1) / most;  // of nearly equal size
    m.tile_pixels = ((pixels + tiles - 1) / tiles + kTileStep - 1) / kTileStep * kTileStep;
    for (MatmulPhase& p : phases) {
      p.first_tile = m.tiles;
      m.tiles += (p.pixels + m.tile_pixels - 1) / m.tile_pixels;
    }
  }
  Planned(const Planned&) = delete;

  void add_phase(const Phase* const* axis, int64_t pixels, int source_count, int64_t& first_depth) {
    std::vector<DepthPart>& list = parts[phases.size()];
    std::vector<int64_t>& depth = depths[phases.size()];
    const Phase &t = *axis[0], &y = *axis[1], &x = *axis[2];
    for (int i = 0; i < t.taps; ++i)
      for (int j = 0; j < y.taps; ++j)
        for (int k = 0; k < x.taps; ++k) {
          int64_t first = 0;
          for (int s = 0; s < source_count; first += m.sources[s++].channels) {
            for (int64_t c = 0; c < m.sources[s].channels; c += kDepth) {
              const int64_t width = std::min<int64_t>(kDepth, m.sources[s].channels - c);
              if (depth.empty() || depth.back() + width > kDepth) depth.push_back(0);
              list.push_back({s,
                              c,
                              first + c,
                              width,
                              {t.tap[i], y.tap[j], x.tap[k]},
                              {t.at[i], y.at[j], x.at[k]},
                              static_cast<int64_t>(depth.size()) - 1,
                              depth.back()});
              depth.back() += width;
            }
          }
        }
    MatmulPhase p{{axis[0], axis[1], axis[2]},
                  list.data(),
                  static_cast<int64_t>(list.size()),
                  static_cast<int64_t>(depth.size()),
                  0,
                  depth.data(),
                  first_depth,
                  0,
                  pixels};
    for (int64_t d : depth) p.depth += d;
    first_depth += p.depth;
    m.slices = std::max(m.slices, p.slices);
    phases.push_back(p);
  }
  int64_t depth() const {
    int64_t sum = 0;
    for (const MatmulPhase& p : phases) sum += p.depth;
    return sum;
  }
  int64_t pixels_of(int64_t tile) const {
    const MatmulPhase* p = m.phases;
    while (p + 1 < m.phases + m.phase_count && p[1].first_tile <= tile) ++p;
    return m.pixels_of(*p, tile);
  }
};

Taps taps_of(const float* weight, const int64_t* strides) {
  return {const_cast<float*>(weight), strides[0], strides[1], strides[2], strides[3], strides[4], Dtype::float32};
}

// Packs the weight for the targets.
void pack(Planned& planned, const std::vector<Target>& targets, const Taps& weight, int threads) {
  Matmul& m = planned.m;
  int64_t chunk = 0;
  FI_DISPATCH(matmul_chunk(&chunk))
  m.targets = targets.data();
  m.target_count = static_cast<int>(targets.size());
  for (const Target& target : targets) m.chunks += (target.channels + chunk - 1) / chunk;
  const int64_t floats = planned.depth() * m.chunks * chunk;
  float* packed = scratch(Scratch::weights, floats);
  auto body = [&](int64_t item, int) { FI_DISPATCH(pack_matmul(m, weight, item, packed)) };
  parallel_for(m.phase_count * m.chunks, worth(floats, threads), body);
  m.packed = packed;
  m.threads = threads;
}

// Packs the weight and runs every item; targets' sums are the caller's to merge.
void run(Planned& planned, const std::vector<Target>& targets, const Taps& weight, int threads) {
  Matmul& m = planned.m;
  pack(planned, targets, weight, threads);
  // the last item of a thread leaves the others idle: few tiles are cut, though each part reads its activations again
  m.part = m.chunks;
  while (m.items() < 8 * threads && m.part > 4) m.part = (m.part + 1) / 2;
  auto body = [&](int64_t item, int) { FI_DISPATCH(matmul(m, item)) };
  parallel_for(m.items(), threads, body);
}

// dweight from the sums of all splits: some channels of one part of the depth after another, a row of the product at a
// time, then written as the weight's gradient lies.
void merge_splits(const MatmulWeightGrad& args, const Taps& to, int threads) {
  const MatmulPhase& p = args.forward->phases[0];
  const int64_t channels = args.forward->shape->channels_out, step = args.pieces() * kDepth * kColumnRow;
  std::vector<std::pair<const DepthPart*, int64_t>> blocks;
  for (const DepthPart* part = p.parts; part < p.parts + p.part_count; ++part) {
    for (int64_t k = 0; k < part->width; k += kMergeRows) blocks.emplace_back(part, k);
  }
  auto merge = [&](int64_t number, int) {
    const auto [part, first] = blocks[number / args.column_blocks];
    const int64_t column = number % args.column_blocks, rows = std::min(kMergeRows, part->width - first);
    const int64_t width = std::min(kColumns, channels - column * kColumns);
    const int64_t item = part->slice * args.column_blocks + column;
    float sums[kMergeRows][kColumns];
    for (int64_t k = 0; k < rows; ++k) {
      const float* from = args.product + (item * kDepth + part->at + first + k) * kColumnRow;
      std::memcpy(sums[k], from, width * sizeof(float));
      for (int64_t split = 1; split < args.splits; ++split) {
        from += step;
        for (int64_t n = 0; n < width; ++n) sums[k][n] += from[n];
      }
    }
    float* out = static_cast<float*>(to.data) + (part->first + first) * to.in + column * kColumns * to.out +
                 part->tap[0] * to.t + part->tap[1] * to.y + part->tap[2] * to.x;
    if (to.out <= to.in) {
      for (int64_t k = 0; k < rows; ++k)
        for (int64_t n = 0; n < width; ++n) out[k * to.in + n * to.out] = sums[k][n];
    } else {
      for (int64_t n = 0; n < width; ++n)
        for (int64_t k = 0; k < rows; ++k) out[k * to.in + n * to.out] = sums[k][n];
    }
  };
  parallel_for(static_cast<int64_t>(blocks.size()) * args.column_blocks,
               worth(args.splits * p.depth * channels, threads), merge);
}

}  // namespace
}  // namespace fi

using namespace fi;

// y [pixels, channels_out] = correlation of the sources' activations + bias (or null); mean and var [channels_out] of y
// where not null. strides: of the weight's in, out, t, y, x axes, in values; so in all that follow.
FI_EXPORT int fi_cpu_matmul_fwd(const DirectShape* shape, const Source* sources, int count, const float* weight,
                                const int64_t* strides, const float* bias, float* y, float* mean, float* var,
                                int threads) {
  Planned planned(shape, false, sources, count);
  const int64_t channels = shape->channels_out;
  std::vector<double> sums(mean ? planned.m.tiles * 3 * channels : 0);
  run(planned,
      {{y, channels, 0, bias, mean ? sums.data() : nullptr, nullptr, nullptr,
        leaves_caches(y, shape->pixels_out() * channels)}},
      taps_of(weight, strides), threads);
  auto pixels = [&](int64_t tile) { return static_cast<double>(planned.pixels_of(tile)); };
  if (mean) merge_stats(sums, pixels, channels, mean, var);
  return 0;
}

// The gradients of the sources from G, the upstream source, to grads [count]; strides: of the weight's out, in, t, y, x
// axes.
FI_EXPORT int fi_cpu_matmul_dgrad(const DirectShape* shape, const Source* upstream, const float* weight,
                                  const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                  int threads) {
  Planned planned(shape, true, upstream, 1);
  GradTargets targets(sources, count, grads, shape->pixels_in(), planned.m.tiles);
  run(planned, targets.list, taps_of(weight, strides), threads);
  targets.merge();
  return 0;
}

// dweight from the sources' activations and G.
FI_EXPORT int fi_cpu_matmul_wgrad(const DirectShape* shape, const Source* sources, int count, const Source* upstream,
                                  float* dweight, const int64_t* strides, int threads) {
  const Planned planned(shape, false, sources, count);
  const MatmulPhase& p = planned.phases[0];
  MatmulWeightGrad args{&planned.m, *upstream, nullptr, 1, 0};
  args.column_blocks = (shape->channels_out + kColumns - 1) / kColumns;
  args.splits = std::clamp<int64_t>(std::min(kSplits / args.pieces(), p.pixels / kSplitPixels), 1, kSplits);
  args.product = scratch(Scratch::weights, args.splits * args.pieces() * kDepth * kColumnRow);
  auto body = [&](int64_t item, int) { FI_DISPATCH(matmul_weight_grad(args, item)) };
  parallel_for(args.splits * args.pieces(), threads, body);
  merge_splits(args, taps_of(dweight, strides), threads);
  return 0;
}

// Whether `fi_cpu_matmul_bwd` takes one pass over the maps: where each pixel of the input meets one of the output, there
// are enough of them, and the weight stays in the second cache.
FI_EXPORT int fi_cpu_matmul_in_one_pass(const DirectShape* shape) {
  const int64_t weights = shape->channels_in * shape->channels_out;
  return is_in_place(*shape) && weights <= kCachedWeights && shape->pixels_out() >= kOnePassPixels;
}

// Both, with the arguments of both; wstrides: of dweight's in, out, t, y, x axes.
FI_EXPORT int fi_cpu_matmul_bwd(const DirectShape* shape, const Source* upstream, const float* weight,
                                const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                float* dweight, const int64_t* wstrides, int threads) {
  if (!fi_cpu_matmul_in_one_pass(shape)) {
    fi_cpu_matmul_dgrad(shape, upstream, weight, strides, sources, count, grads, threads);
    return fi_cpu_matmul_wgrad(shape, sources, count, upstream, dweight, wstrides, threads);
  }
  const Planned forward(shape, false, sources, count);
  const int64_t pixels = shape->pixels_out();
  Planned planned(shape, true, upstream, 1, forward.m.slices);
  GradTargets targets(sources, count, grads, shape->pixels_in(), planned.m.tiles);
  pack(planned, targets.list, taps_of(weight, strides), threads);
  MatmulBackward args{&planned.m, {&forward.m, *upstream, nullptr, 1, planned.m.slices}};
  MatmulWeightGrad& grad = args.weight_grad;
  grad.splits = std::max<int64_t>(1, std::min({kSplits / grad.pieces(), pixels / kSplitPixels, planned.m.tiles}));
  grad.product = scratch(Scratch::product, grad.splits * grad.pieces() * kDepth * kColumnRow);
  auto body = [&](int64_t split, int) { FI_DISPATCH(matmul_backward(args, split)) };
  parallel_for(grad.splits, threads, body);
  targets.merge();
  merge_splits(grad, taps_of(dweight, wstrides), threads);
  return 0;
}
