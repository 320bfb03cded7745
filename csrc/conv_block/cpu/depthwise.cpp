// Entry points of the depthwise convolutions of depthwise.h: float32, channels-last. Each returns 0. Work is cut
// into pieces by sizes alone and sums are merged in a fixed order, so a result does not depend on the number of threads.
#include "conv_block/cpu/depthwise.h"

#include <algorithm>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"
#include "conv_block/cpu/grad_targets.h"

namespace fi {

namespace {

constexpr int64_t kPieceColumns = 128;
constexpr int64_t kBandFloats = 80 << 10;  // of a piece: they stay in the second cache
constexpr int64_t kSplits = 32;            // most of the weight gradient's

// Grid places [begin, begin + size) of an axis with their band; begin is a multiple of the phases' step.
Span span_of(const Phase* phases, int count, int64_t begin, int64_t size) {
  int64_t low = 0, high = -1;
  bool any = false;
  for (const Phase* p = phases; p < phases + count; ++p) {
    const int64_t places = (size - p->first + p->step - 1) / p->step, j = begin / p->step;
    if (places <= 0 || p->taps == 0) continue;
    const int64_t least = p->scale * j + p->low, most = p->scale * (j + places - 1) + p->high;
    low = any ? std::min(low, least) : least;
    high = any ? std::max(high, most) : most;
    any = true;
  }
  return {begin, size, low, high - low + 1};
}

// Channels cut where a source or a target ends, and after kGroup of them.
std::vector<ChannelGroup> channel_groups(const Source* sources, int source_count, const Target* targets,
                                         int target_count) {
  std::vector<ChannelGroup> groups;
  int source = 0;
  int64_t ends = source_count ? sources[0].channels : 0;
  for (int target = 0; target < target_count; ++target) {
    const Target& t = targets[target];
    for (int64_t c = 0; c < t.channels;) {
      while (ends <= t.first + c && source + 1 < source_count) ends += sources[++source].channels;
      const int64_t first = t.first + c, width = std::min({kGroup, t.channels - c, ends - first});
      groups.push_back({source, target, first - (ends - sources[source].channels), c, first, width});
      c += width;
    }
  }
  return groups;
}

// both: whether an item's activations share the second cache with its band.
Depthwise plan(const DirectShape* shape, bool backward, bool both = false) {
  Depthwise d{};
  d.shape = shape;
  d.map = correspondence(*shape, backward);
  d.columns = std::min(kPieceColumns, std::max<int64_t>(1, d.map.grid[2]));
  const int64_t reach_y = shape->dilation[1] * (shape->kernel[1] - 1);
  const int64_t scale_y = backward ? 1 : shape->stride[1], scale_x = backward ? 1 : shape->stride[2];
  const int64_t columns = d.columns * scale_x + shape->dilation[2] * (shape->kernel[2] - 1);
  const int64_t band_rows = kBandFloats / (columns * kGroup * (std::max<int64_t>(1, shape->kernel[0]) + both));
  // even, for the phases; at least 4, for else the rows that pieces share are read over and over
  d.rows = std::clamp<int64_t>((band_rows - reach_y) / scale_y / 2 * 2, 4, 32);
  d.packed_row = (shape->channels_out + 15) / 16 * 16 + 16;
  return d;
}

// The weight as [taps, packed_row]; strides: of the channels, t, y and x.
const float* pack(const DirectShape& s, const float* weight, const int64_t* strides, int64_t row) {
  float* packed = scratch(Scratch::weights, s.taps() * row);
  float* to = packed;
  for (int64_t tap = 0; tap < s.taps(); ++tap, to += row) {
    const int64_t t = tap / (s.kernel[1] * s.kernel[2]), y = tap / s.kernel[2] % s.kernel[1], x = tap % s.kernel[2];
    const float* from = weight + t * strides[1] + y * strides[2] + x * strides[3];
    for (int64_t c = 0; c < s.channels_out; ++c) to[c] = from[c * strides[0]];
    std::fill(to + s.channels_out, to + row, 0.0f);
  }
  return packed;
}

void run(Depthwise& d, const std::vector<ChannelGroup>& groups, int threads) {
  d.groups = groups.data();
  d.group_count = static_cast<int64_t>(groups.size());
  auto body = [&](int64_t item, int) { FI_DISPATCH(depthwise(d, item)) };
  parallel_for(d.pieces() * d.group_count, threads, body);
}

}  // namespace

Piece3 Depthwise::piece(int64_t number) const {
  const int64_t column = number % column_blocks() * columns, row = number / column_blocks() % row_blocks() * rows;
  const int64_t frame = number / column_blocks() / row_blocks();
  const int64_t height = std::min(rows, map.grid[1] - row), width = std::min(columns, map.grid[2] - column);
  return {frame / map.grid[0], frame % map.grid[0], span_of(map.phase[1], map.phases[1], row, height),
          span_of(map.phase[2], map.phases[2], column, width)};
}

}  // namespace fi

using namespace fi;

// y [pixels, channels] = correlation of the sources' activations + bias (or null); mean and var [channels] of y where
// not null. strides: of the weight's channels, t, y, x axes, in values; so in all that follow.
FI_EXPORT int fi_cpu_depthwise_fwd(const DirectShape* shape, const Source* sources, int count, const float* weight,
                                   const int64_t* strides, const float* bias, float* y, float* mean, float* var,
                                   int threads) {
  Depthwise d = plan(shape, false);
  const int64_t channels = shape->channels_out;
  std::vector<double> sums(mean ? d.pieces() * 3 * channels : 0);
  Target target{y, channels, 0, bias, mean ? sums.data() : nullptr, nullptr, nullptr,
                leaves_caches(y, shape->pixels_out() * channels)};
  d.sources = sources;
  d.targets = &target;
  d.packed = pack(*shape, weight, strides, d.packed_row);
  run(d, channel_groups(sources, count, &target, 1), threads);
  auto pixels = [&](int64_t i) {
    const Piece3 piece = d.piece(i);
    return static_cast<double>(piece.y.size) * piece.x.size;
  };
  if (mean) merge_stats(sums, pixels, channels, mean, var);
  return 0;
}

// The gradients of the sources from G, the upstream source, to grads [count].
FI_EXPORT int fi_cpu_depthwise_dgrad(const DirectShape* shape, const Source* upstream, const float* weight,
                                     const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                     int threads) {
  Depthwise d = plan(shape, true);
  const GradTargets targets(sources, count, grads, shape->pixels_in(), d.pieces());
  d.sources = upstream;
  d.targets = targets.list.data();
  d.packed = pack(*shape, weight, strides, d.packed_row);
  run(d, channel_groups(upstream, 1, d.targets, targets.count()), threads);
  targets.merge();
  return 0;
}

// dweight from the sources' activations and G, and the gradients of the sources, with the arguments of the data
// gradient. wstrides: of dweight's channels, t, y, x axes.
FI_EXPORT int fi_cpu_depthwise_bwd(const DirectShape* shape, const Source* upstream, const float* weight,
                                   const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                   float* dweight, const int64_t* wstrides, int threads) {
  Depthwise d = plan(shape, true, true);
  const GradTargets targets(sources, count, grads, shape->pixels_in(), d.pieces(), true);
  const std::vector<ChannelGroup> groups = channel_groups(upstream, 1, targets.list.data(), count);
  d.sources = upstream;
  d.targets = targets.list.data();
  d.groups = groups.data();
  d.group_count = static_cast<int64_t>(groups.size());
  d.packed = pack(*shape, weight, strides, d.packed_row);
  DepthwiseBackward args{&d, nullptr, std::clamp<int64_t>(d.pieces() / 2, 1, kSplits)};
  const int64_t size = shape->taps() * d.packed_row;
  args.product = scratch(Scratch::product, args.splits * size);
  auto body = [&](int64_t item, int) { FI_DISPATCH(depthwise_backward(args, item)) };
  parallel_for(args.splits * d.group_count, threads, body);
  targets.merge();
  for (int64_t tap = 0; tap < shape->taps(); ++tap) {
    const int64_t x = tap % shape->kernel[2], y = tap / shape->kernel[2] % shape->kernel[1];
    float* to = dweight + tap / (shape->kernel[1] * shape->kernel[2]) * wstrides[1] + y * wstrides[2] + x * wstrides[3];
    const float* from = args.product + tap * d.packed_row;
    for (int64_t c = 0; c < shape->channels_out; ++c) {
      double sum = 0;
      for (int64_t split = 0; split < args.splits; ++split) sum += from[split * size + c];
      to[c * wstrides[0]] = static_cast<float>(sum);
    }
  }
  return 0;
}
