// The host's plan of a convolution: tile, patches, column tile, and the kernel parameters that follow from them.
#pragma once
#include "common/cuda_launch.cuh"
#include "conv_block/cuda/depthwise/fwd_dgrad.cuh"
#include "conv_block/cuda/kernels/pack.cuh"
#include "conv_block/cuda/kernels/thin.cuh"

namespace fi {

constexpr int kPatchLimit = 36 << 10;   // bytes; two patches and the ring then allow two blocks per SM
constexpr int kWantedBlocks = 2 * 132;  // two per SM of an H200
constexpr int kFewestBlocks = 128;      // about one per SM of an A100, L40S or H200

// A depthwise block takes several tiles, for which it loads its weights and writes its partials once, if there are
// still eight per SM of an H200.
constexpr int kDepthwiseBlocks = 8 * 132, kMostDepthwiseTiles = 16;

// Allocates 16-byte aligned regions of the caller's workspace. With a null base it only counts bytes.
struct Workspace {
  char* base;
  int64_t used = 0;

  void* take(int64_t bytes) {
    void* part = base ? base + used : nullptr;
    used += (bytes + 15) / 16 * 16;
    return part;
  }

  Partials partials(int64_t blocks, int channels) {
    float4* value = static_cast<float4*>(take(blocks * channels * int64_t(sizeof(float4))));
    return {value, static_cast<float*>(take(blocks * int64_t(sizeof(float)))), channels};
  }
};

inline int size_of(int dtype) { return dtype == kFloat32 || dtype == kTf32 ? 4 : 2; }

// Calls f(T()) with the type in shared memory.
template <class F>
int with_factors(int dtype, F f) {
  return dtype == kTf32 ? f(Tf32()) : with_dtype(dtype, f);
}

// How taps share a patch. Of the choices whose patch fits, the one that loads the fewest positions per chunk is best.
enum class Sharing { plane, row, none };

inline PatchShape patch_for(const TapTable& table, Sharing sharing, int tile_bits, PatchOrigin* origin, TapTable* named,
                            int& groups) {
  int span_h = 0, span_w = 0;
  groups = 0;
  for (int p = 0; p < table.phases; ++p) {
    const Phase& phase = table.phase[p];
    for (int first = phase.first, end; first < phase.first + phase.taps; first = end, ++groups) {
      const Tap& a = table.tap[first];
      PatchOrigin low{a.t, a.h, a.w, 0}, high = low;
      for (end = first; end < phase.first + phase.taps; ++end) {
        const Tap& b = table.tap[end];
        if (b.t != a.t || (sharing != Sharing::plane && b.h != a.h) || (sharing == Sharing::none && end != first))
          break;
        low.h = std::min(low.h, b.h), low.w = std::min(low.w, b.w);
        high.h = std::max(high.h, b.h), high.w = std::max(high.w, b.w);
        if (named) named->tap[end].group = uint8_t(groups);
      }
      span_h = std::max(span_h, high.h - low.h), span_w = std::max(span_w, high.w - low.w);
      if (origin) origin[groups] = low;
    }
  }
  return make_box(kTileRows >> tile_bits, 1 << tile_bits, span_h, span_w, table.step);
}

// Large maps get tiles of 16 x 8 positions, which have the smallest border. Small maps get the shape that wastes the
// fewest positions.
inline int choose_tile_bits(const TapTable& table, const int* out_size) {
  int best = 4;
  int64_t least = -1;
  for (int bits : {4, 3, 5, 2, 6, 7}) {
    int64_t tiles = int64_t(ceil_div(ceil_div(out_size[1], table.out_step[1]), kTileRows >> bits)) *
                    ceil_div(ceil_div(out_size[2], table.out_step[2]), 1 << bits);
    if (least < 0 || tiles < least) least = tiles, best = bits;
  }
  return best;
}

// Chooses the sharing, sets every tap's group and returns the number of groups. Single taps always fit.
inline int choose_patch(TapTable& table, int tile_bits, int position_bytes, int limit, PatchOrigin* origin,
                        PatchShape& shape) {
  Sharing best = Sharing::none;
  int64_t least = -1;
  for (Sharing sharing : {Sharing::plane, Sharing::row, Sharing::none}) {
    int groups;
    PatchShape s = patch_for(table, sharing, tile_bits, nullptr, nullptr, groups);
    int64_t positions = int64_t(s.rows) * s.columns;
    bool fits = positions * position_bytes <= limit || sharing == Sharing::none;
    if (fits && (least < 0 || positions * groups < least)) least = positions * groups, best = sharing;
  }
  int groups;
  shape = patch_for(table, best, tile_bits, origin, &table, groups);
  return groups;
}

// Columns per tile: 16 for three-channel outputs, then the next power of two. 128 only if the grid still fills the GPU
// twice, because wider tiles reuse patches but give fewer blocks. float32 has at most 32, because it holds every sum
// twice. tf32 has at most 64, because its loads take twice the registers.
inline int choose_columns(int dtype, int channels, int64_t tiles) {
  if (channels <= 16) return 16;
  if (channels <= 32 || dtype == kFloat32) return 32;
  return dtype != kTf32 && channels > 64 && tiles * ceil_div(channels, 128) >= kWantedBlocks ? 128 : 64;
}

// The channels of k, from `Groups::first` on, that any column tile needs, in chunks.
inline int group_chunks(const Groups& group, int channels, int columns) {
  int most = 0;
  for (int n = 0; n < channels; n += columns) {
    int end = ((std::min(n + columns, channels) - 1) / group.n + 1) * group.k;
    most = std::max(most, ceil_div(end - group.first(n), kChunk));
  }
  return most;
}

// Columns per tile of a grouped convolution. A tile's chunks have the channels of all groups that it meets, with zeros
// as the weights between groups: wide tiles multiply more zeros, narrow ones load more patches. A patch costs about as
// much as kPatchColumns more columns.
inline int choose_group_columns(int dtype, const Groups& group, int channels) {
  constexpr int kPatchColumns = 32;
  int widest = dtype == kFloat32 ? 32 : dtype == kTf32 ? 64 : 128, best = 16;
  int64_t least = -1;
  for (int columns = 16; columns <= widest; columns *= 2) {
    int64_t cost =
        int64_t(ceil_div(channels, columns)) * group_chunks(group, channels, columns) * (columns + kPatchColumns);
    if (least < 0 || cost <= least) least = cost, best = columns;
  }
  return best;
}

// What a plan loads and needs, for tests and for counting bytes. tools/inspect/counting.py has the same structure.
struct Footprint {
  int64_t blocks;
  int64_t loads;  // bytes that all blocks access in global memory, including dead taps
  int64_t shared_bytes;
  int64_t groups;          // of kThreads per block
  int64_t columns;         // per tile
  int64_t steps;           // of the main loop per patch (wgrad: per tile)
  int64_t slices;          // per patch (wgrad: P's and Q's per tile); on wgmma, the kernel's template argument
  int64_t multiplied = 0;  // on wgmma: multiply-adds of all blocks
  int64_t staged = 0;      // on wgmma: bytes that writing the strips moves
  int64_t given = 0;       // on wgmma: whether wgrad reads strips that dgrad has written
  int64_t zeroed = 0;      // on wgmma: bytes of zeros that the blocks write into shared memory
};

struct GatherPlan {
  GatherParams params;
  PackParams pack;
  int columns, taps, tiles, column_tiles, groups;
  int64_t workspace;
  bool thin, hopper, depthwise;
};

// padding: padded columns of every part in the packed weights.
inline void plan_segments(const Conv& conv, bool backward, GatherPlan& plan, Workspace& workspace, int padding) {
  GatherParams& p = plan.params;
  int columns = 0, parts = backward ? conv.sources : 1, widest = 0;
  p.segments = 0;
  plan.pack.n = {{0, 0}, {0, 0}, conv.weight_stride[backward ? 1 : 0]};
  for (int i = 0; i < parts; ++i) {
    int channels = backward ? conv.source[i].channels : conv.out_channels;
    plan.pack.n.channels[i] = channels;
    plan.pack.n.padded[i] = round_up(channels, padding);
    const SourceGradient& out = conv.source_gradient[i];
    if (!backward || out.dx) {
      Segment& segment = p.segment[p.segments++];
      segment = {channels, columns, 0, conv.source[i], out, conv.y, conv.bias, {}};
      if (backward ? out.dscale != nullptr : conv.mean != nullptr)
        segment.partials = workspace.partials(plan.tiles, channels);
      widest = std::max(widest, channels);
    }
    columns += plan.pack.n.padded[i];
  }
  p.n_padded = columns;
  plan.columns = conv.groups > 1 ? choose_group_columns(conv.dtype, p.group, widest)
                                 : choose_columns(conv.dtype, widest, plan.tiles);
}

inline void plan_column_tiles(GatherPlan& plan) {
  GatherParams& p = plan.params;
  plan.column_tiles = 0;
  for (int i = 0; i < p.segments; ++i) {
    p.segment[i].first_tile = plan.column_tiles;
    plan.column_tiles += ceil_div(p.segment[i].channels, plan.columns);
  }
}

inline void plan_sources(const Conv& conv, bool backward, GatherPlan& plan, int chunk) {
  GatherParams& p = plan.params;
  p.sources = backward ? 1 : conv.sources;
  p.group = plan.pack.group = {0, 0};
  int in = in_channels(conv) / conv.groups, out = conv.out_channels / conv.groups;
  if (conv.groups > 1) p.group = {backward ? out : in, backward ? in : out};
  plan.pack.k = {{0, 0}, {0, 0}, conv.weight_stride[backward ? 0 : 1]};
  p.chunks[1] = 0;
  for (int i = 0; i < p.sources; ++i) {
    p.source[i] = backward ? conv.gradient : conv.source[i];
    p.chunks[i] = ceil_div(p.source[i].channels, chunk);
    plan.pack.k.channels[i] = p.source[i].channels;
    plan.pack.k.padded[i] = p.chunks[i] * chunk;
  }
  p.k_padded = plan.pack.k.padded[0] + plan.pack.k.padded[1];
  for (int d = 0; d < 3; ++d) {
    plan.pack.kernel[d] = conv.kernel[d];
    plan.pack.tap_stride[d] = conv.weight_stride[2 + d];
  }
}

// Channels per group of both sides, and the chunks of a column tile.
inline void plan_groups(const Conv& conv, bool backward, GatherPlan& plan) {
  GatherParams& p = plan.params;
  plan.depthwise = is_depthwise(conv);
  if (conv.groups == 1) return;
  if (plan.depthwise) plan.columns = kChunk;
  if (!plan.depthwise) p.chunks[0] = group_chunks(p.group, plan.pack.n.channels[0], plan.columns);
  p.k_padded = p.chunks[0] * kChunk;
  plan.pack.group = p.group;
  plan.pack.k_in_group = bool(conv.transposed) == backward;
  plan.pack.columns = plan.columns;
}

constexpr int kHaloLimit = 48 << 10;  // bytes; the first layer's 5x5x5 halo is 19 KiB in 16 bits, 38 in float32

// Whether kernels/thin.cuh can run. Sources of at most four channels would leave most of a 32-channel chunk empty, so
// it packs several taps into one. Taps must be in one phase, and the halo must fit.
inline void plan_thin(const Conv& conv, GatherPlan& plan) {
  GatherParams& p = plan.params;
  plan.thin = plan.pack.pairs = false;
  p.planes = 0;
  plan.taps = conv.kernel[0] * conv.kernel[1] * conv.kernel[2];
  if (conv.groups > 1 || p.sources > 1 || p.source[0].channels > kThinChannels || p.taps.phases > 1) return;
  PatchShape shape = patch_for(p.taps, Sharing::plane, p.tile_bits, p.origin, &p.taps, p.planes);
  if (int64_t(p.planes) * shape.rows * shape.columns * kVector * size_of(conv.dtype) > kHaloLimit) return;
  plan.thin = plan.pack.pairs = true;
  plan.taps = 1;
  p.patch = shape;
  p.kernel_w = conv.kernel[2];
  p.pair_step = p.kernel_w > 1 ? p.taps.tap[1].w - p.taps.tap[0].w : 0;
  p.pairs = conv.kernel[0] * conv.kernel[1] * ceil_div(conv.kernel[2], 2);
  p.k_padded = round_up(p.pairs * kVector, kChunk);
  plan.columns = plan.columns <= 32 ? 32 : 64;
}

// Most bytes per patch (there are two): limited by two blocks per SM and by the shared memory of a block. A depthwise
// block has one.
inline int patch_limit(const Conv& conv, int columns) {
  if (is_depthwise(conv)) return std::min(kHaloLimit, conv.shared_limit - depthwise_rest_bytes(kMaxTaps));
  int rest = with_factors(conv.dtype, [&](auto t) {
    using T = decltype(t);
    return gather_rest_bytes<T>(columns);
  });
  return std::min(kPatchLimit, (conv.shared_limit - rest) / 2);
}

// Chooses the patches, and widens the columns to 128 where patches weigh more than twice the weights: wider tiles halve
// what is loaded for a product, so that one block per SM is faster than two.
inline void plan_patches(const Conv& conv, GatherPlan& plan) {
  GatherParams& p = plan.params;
  int position_bytes = kChunk * size_of(conv.dtype) + 16, maps = p.source[0].addend ? 2 : 1;
  int64_t blocks = 0;  // with 128 columns
  auto choose = [&] {
    return choose_patch(p.taps, p.tile_bits, position_bytes, patch_limit(conv, plan.columns), p.origin, p.patch);
  };
  plan.groups = choose();
  if (conv.groups > 1) return;
  for (int i = 0; i < p.segments; ++i) {
    if (p.segment[i].channels <= 64) return;
    blocks += int64_t(plan.tiles) * ceil_div(p.segment[i].channels, 128);
  }
  int64_t positions = int64_t(p.patch.rows) * p.patch.columns * plan.groups * maps;
  bool heavy = positions > int64_t(2) * plan.columns * p.taps.taps;
  if (!heavy || plan.columns != 64 || size_of(conv.dtype) != 2 || blocks < kFewestBlocks) return;
  plan.columns = 128;
  plan.groups = choose();
}

// Fills the plan, including the bytes of workspace. Returns a Status.
inline int plan_gather(const Conv& conv, bool backward, GatherPlan& plan) {
  GatherParams& p = plan.params;
  bool inverse = bool(conv.transposed) != backward;
  if (!make_taps(conv, inverse, p.taps)) return kBadGeometry;
  if (inverse && is_depthwise(conv)) reverse_taps(p.taps);
  p.backward = backward;
  p.batch = conv.batch;
  for (int d = 0; d < 3; ++d) {
    p.in_size[d] = backward ? conv.out[d] : conv.in[d];
    p.out_size[d] = backward ? conv.in[d] : conv.out[d];
  }
  p.tile_bits = choose_tile_bits(p.taps, p.out_size);
  int extent[3] = {1, kTileRows >> p.tile_bits, 1 << p.tile_bits};
  int64_t tiles = int64_t(p.taps.phases) * p.batch;
  for (int d = 0; d < 3; ++d) {
    p.tiles[d] = ceil_div(ceil_div(p.out_size[d], p.taps.out_step[d]), extent[d]);
    tiles *= p.tiles[d];
  }
  if (tiles >= 1ll << 31) return kTooLarge;
  p.all_tiles = int(tiles);
  p.tiles_each = 1;
  if (is_depthwise(conv)) {
    int64_t blocks = tiles * ceil_div(conv.groups, kChunk);
    p.tiles_each = int(std::min<int64_t>(kMostDepthwiseTiles, std::max<int64_t>(1, blocks / kDepthwiseBlocks)));
  }
  plan.tiles = ceil_div(p.all_tiles, p.tiles_each);
  Workspace workspace{static_cast<char*>(conv.workspace)};
  plan_sources(conv, backward, plan, kChunk);
  plan_segments(conv, backward, plan, workspace, kVector);
  plan_groups(conv, backward, plan);
  plan_thin(conv, plan);
  plan.groups = p.planes;
  if (!plan.thin) plan_patches(conv, plan);
  plan_column_tiles(plan);
  if (!plan.depthwise) p.weight = workspace.take(int64_t(plan.taps) * p.k_padded * p.n_padded * size_of(conv.dtype));
  plan.workspace = workspace.used;
  plan.hopper = false;
  return kOk;
}

}  // namespace fi
