// The host's plan of wgrad: roles of both sides, taps and columns per block, splits, and which kernel runs.
#pragma once
#include "conv_block/cuda/depthwise/wgrad.cuh"
#include "conv_block/cuda/hopper/fwd_dgrad_plan.cuh"
#include "conv_block/cuda/hopper/wgrad_plan.cuh"
#include "conv_block/cuda/kernels/reduce.cuh"
#include "conv_block/cuda/kernels/reduce_groups.cuh"
#include "conv_block/cuda/kernels/wgrad_main.cuh"
#include "conv_block/cuda/plan/plan.cuh"

namespace fi {

struct WgradPlan {
  WgradParams params;
  ReduceParams reduce;
  ReduceGroups reduce_groups;
  int channels, columns, row_blocks, column_tiles;  // channels of P in a row block
  int groups;  // of kThreads per block of wgrad_kernel: they sum separate tiles and store one partial
  bool thin, hopper, depthwise;
  StripWgrad strips;  // hopper
  int64_t workspace;
};

// P is the side that taps shift: the activation, or G of a transposed convolution. At stride 1 it may also be G of any
// convolution (inverse: the taps' offsets change sign).
struct Roles {
  bool gradient_is_p, inverse;
};

// Splits the taps into blocks of one plane with at most `most` taps (thin: entries). Whole kernel rows are kept
// together if they fit, so that a block's patch stays small.
inline void cut_taps(const Conv& conv, int most, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  int rows = conv.kernel[0] * conv.kernel[1], in_row = plan.thin ? ceil_div(conv.kernel[2], 2) : conv.kernel[2];
  int span_h = 0, span_w = 0;
  plan.params.blocks = 0;
  auto tap_of = [&](int i) -> const Tap& {
    return p.taps.tap[plan.thin ? i / in_row * p.kernel_w + i % in_row * 2 : i];
  };
  for (int first = 0; first < rows * in_row;) {
    int left_in_row = in_row - first % in_row,
        left_in_plane = conv.kernel[1] * in_row - first % (conv.kernel[1] * in_row);
    int count = std::min(most, left_in_row);
    if (most >= in_row && first % in_row == 0) count = std::min(left_in_plane, most / in_row * in_row);
    Tap low = tap_of(first), high = low;
    for (int i = first; i < first + count; ++i) {
      Tap tap = tap_of(i);
      low.h = std::min(low.h, tap.h), low.w = std::min(low.w, tap.w);
      high.h = std::max(high.h, tap.h), high.w = std::max(high.w, tap.w);
    }
    span_h = std::max(span_h, high.h - low.h), span_w = std::max(span_w, high.w - low.w);
    plan.params.block[plan.params.blocks++] = {low.t, low.h, low.w, int16_t(first), int16_t(count)};
    first += count;
  }
  p.patch = make_box(kTileRows >> p.tile_bits, 1 << p.tile_bits, span_h, span_w, p.taps.step);
}

// Columns per tile: 32 for narrow Q, else 64. float32 has at most 32, because it holds every sum twice. So does tf32,
// because more taps' sums would exceed the registers (thin blocks have fewer).
inline int choose_wgrad_columns(int dtype, int channels, bool thin) {
  return channels <= 32 || dtype == kFloat32 || (dtype == kTf32 && !thin) ? 32 : 64;
}

// With groups, the columns of Q that any chunk of P meets; depthwise, one.
inline void choose_groups(const Conv& conv, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  WgradParams& w = plan.params;
  p.group = {0, 0};
  if (conv.groups == 1) return;
  p.group = {w.q_channels / conv.groups, w.p_channels / conv.groups};
  int chunks = group_chunks(p.group, w.p_channels, kChunk);
  plan.columns = choose_wgrad_columns(conv.dtype, chunks * kChunk, false);
  plan.column_tiles = w.q_tiles[0] = ceil_div(chunks * kChunk, plan.columns);
  w.q_channels = plan.depthwise ? 1 : plan.column_tiles * plan.columns;
}

inline void choose_sources(const Conv& conv, const Roles& roles, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  WgradParams& w = plan.params;
  p.sources = roles.gradient_is_p ? 1 : conv.sources;
  w.q_sources = roles.gradient_is_p ? conv.sources : 1;
  w.p_channels = roles.gradient_is_p ? conv.out_channels : in_channels(conv);
  w.q_channels = roles.gradient_is_p ? in_channels(conv) : conv.out_channels;
  plan.thin = conv.groups == 1 && p.sources == 1 && w.p_channels <= kThinChannels;
  plan.channels = kChunk;
  plan.columns = choose_wgrad_columns(conv.dtype, w.q_channels, plan.thin);
  plan.column_tiles = p.chunks[1] = w.q_tiles[1] = 0;
  for (int i = 0; i < p.sources; ++i) {
    p.source[i] = roles.gradient_is_p ? conv.gradient : conv.source[i];
    p.chunks[i] = ceil_div(p.source[i].channels, plan.channels);
  }
  for (int i = 0; i < w.q_sources; ++i) {
    w.q[i] = roles.gradient_is_p ? conv.source[i] : conv.gradient;
    plan.column_tiles += w.q_tiles[i] = ceil_div(w.q[i].channels, plan.columns);
  }
  choose_groups(conv, plan);
  for (int d = 0; d < 3; ++d) {
    p.in_size[d] = roles.gradient_is_p ? conv.out[d] : conv.in[d];
    p.out_size[d] = roles.gradient_is_p ? conv.in[d] : conv.out[d];
  }
}

constexpr int kOperationsPerByte = 183;  // an H200's 788 TFLOP/s over its 4.3 TB/s

struct Splits {
  int partials, groups;  // groups that share a partial
};

// The smallest number of splits with the least estimated time: rounds of resident groups, each as long as the tiles of
// a split, plus writing and reading the partials. operations: per group and tile. held: groups resident on an H200.
inline Splits choose_splits(int blocks, int tiles, int64_t operations, int64_t partial_bytes, int held,
                            int most_groups) {
  Splits best{1, 1};
  int64_t least = -1;
  for (int groups = 1; groups <= most_groups; ++groups)
    for (int i = 1; i * groups <= std::min(tiles, ceil_div(4 * held, blocks)); ++i) {
      int64_t rounds = ceil_div(blocks * i, held / groups), each = ceil_div(tiles, i * groups);
      int64_t cost = rounds * held * each * operations + 2 * i * partial_bytes * kOperationsPerByte;
      if (least < 0 || cost < least) least = cost, best = {i, groups};
    }
  return best;
}

// Shared memory per block.
template <class T, int BN, bool thin>
int block_bytes(const WgradPlan& plan) {
  int each = wgrad_bytes<T, BN, thin>(plan.params.p);
  return plan.groups > 1 ? std::max(plan.groups * each, merge_bytes<block_taps<T, thin>(), BN>()) : each;
}

inline int block_bytes(const Conv& conv, const WgradPlan& plan) {
  return with_factors(conv.dtype, [&](auto t) {
    using T = decltype(t);
    if (plan.thin) return plan.columns == 64 ? block_bytes<T, 64, true>(plan) : block_bytes<T, 32, true>(plan);
    return plan.columns == 64 ? block_bytes<T, 64, false>(plan) : block_bytes<T, 32, false>(plan);
  });
}

// How the partials of that many splits are summed. A vector gets a second thread only beyond four splits per thread.
inline ReduceParams plan_reduce(int taps, int p_channels, int q_channels, int splits, bool p_inner) {
  ReduceParams reduce{taps, p_channels, q_channels, splits, p_inner, kVector, 0, 1};
  while (reduce.parts < kVector && reduce.parts * 4 < splits) reduce.parts *= 2;
  reduce.vectors = p_inner ? kThreads / kVector / reduce.parts : 2;
  if (!p_inner) reduce.rows = reduce.taps;
  return reduce;
}

inline int64_t partial_bytes(const WgradParams& w) {
  return int64_t(w.p.taps.taps) * w.p_channels * w.q_channels * int64_t(sizeof(float));
}

// Bytes that the blocks access in global memory, including dead taps.
inline int64_t bytes_asked(const Conv& conv, const WgradPlan& plan) {
  const WgradParams& w = plan.params;
  auto maps = [](const Source& source) { return source.addend ? 2 : 1; };
  int64_t position = (plan.thin ? 2 * w.p_channels : plan.channels) * size_of(conv.dtype), patches = 0, q = 0;
  for (int i = 0; i < w.p.sources; ++i) patches += int64_t(w.blocks) * w.p.chunks[i] * maps(w.p.source[i]);
  for (int i = 0; i < w.q_sources; ++i) q += int64_t(w.q_tiles[i]) * maps(w.q[i]);
  patches *= position * w.p.patch.rows * w.p.patch.columns;
  q *= int64_t(kTileRows) * plan.columns * size_of(conv.dtype);
  return w.tiles * (patches * plan.column_tiles + q * plan.row_blocks) + 2 * plan.workspace;
}

// Sources, tiles and blocks of at most that many taps. Returns false if the number of tiles exceeds an int.
inline bool lay_out(const Conv& conv, const Roles& roles, int most, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  WgradParams& w = plan.params;
  make_taps(conv, roles.inverse, p.taps);
  p.batch = conv.batch;
  p.kernel_w = conv.kernel[2];
  p.pair_step = p.kernel_w > 1 ? p.taps.tap[1].w - p.taps.tap[0].w : 0;
  choose_sources(conv, roles, plan);
  p.tile_bits = choose_tile_bits(p.taps, p.out_size);
  cut_taps(conv, most, plan);
  int unit[3] = {1, 1, 1};
  w.q_box = make_box(kTileRows >> p.tile_bits, 1 << p.tile_bits, 0, 0, unit);
  plan.row_blocks = (p.chunks[0] + p.chunks[1]) * w.blocks;
  p.tiles[0] = p.out_size[0];
  p.tiles[1] = ceil_div(p.out_size[1], kTileRows >> p.tile_bits);
  p.tiles[2] = ceil_div(p.out_size[2], 1 << p.tile_bits);
  int64_t tiles = int64_t(p.batch) * p.tiles[0] * p.tiles[1] * p.tiles[2];
  if (tiles >= 1ll << 31) return false;
  w.tiles = int(tiles);
  return true;
}

// Allocates the partials, and says how they are summed.
inline void plan_partials(const Conv& conv, const Roles& roles, WgradPlan& plan) {
  WgradParams& w = plan.params;
  int taps = w.p.taps.taps;
  Workspace workspace{static_cast<char*>(conv.workspace)};
  w.partial = static_cast<float*>(workspace.take(w.splits * partial_bytes(w)));
  plan.workspace = workspace.used;
  plan.reduce = plan_reduce(taps, w.p_channels, w.q_channels, w.splits, roles.gradient_is_p == bool(conv.transposed));
  plan.reduce_groups = {taps, w.splits, w.p_channels, w.q_channels, w.p.group, plan.depthwise};
}

// Plans with these roles and at most that many taps per block. Returns false if a patch exceeds kPatchLimit, the
// block's memory exceeds the chip's (neither can happen for a single tap), or the number of tiles exceeds an int.
inline bool plan_blocks(const Conv& conv, const Roles& roles, int most, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  WgradParams& w = plan.params;
  if (!lay_out(conv, roles, most, plan)) return false;
  int64_t rows = plan.thin ? kThinEntries * kVector : (p.taps.taps / w.blocks) * plan.channels;
  int64_t operations = 3 * rows * kTileRows * plan.columns;  // mma.sync is slower than the chip
  plan.groups = kMostGroups;
  bool grouped = block_bytes(conv, plan) <= conv.shared_limit;
  Splits splits = choose_splits(plan.row_blocks * plan.column_tiles, w.tiles, operations, partial_bytes(w),
                                kWantedBlocks, grouped ? kMostGroups : 1);
  plan.groups = splits.groups;
  w.tiles_each = ceil_div(w.tiles, splits.partials * plan.groups);
  w.splits = ceil_div(w.tiles, w.tiles_each * plan.groups);
  plan_partials(conv, roles, plan);
  int position_bytes = with_factors(conv.dtype, [&](auto t) {
    using T = decltype(t);
    return int(sizeof(T)) * (plan.thin ? patch_pitch<T, true>() : patch_pitch<T, false>());
  });
  return p.patch.rows * p.patch.columns * position_bytes <= kPatchLimit && block_bytes(conv, plan) <= conv.shared_limit;
}

inline int depthwise_wgrad_bytes(const Conv& conv, const WgradParams& w) {
  return size_of(conv.dtype) == 2 ? depthwise_wgrad_bytes<__half>(w) : depthwise_wgrad_bytes<float>(w);
}

// Plans the depthwise kernel with the most taps per block (a plane, a kernel row or a single tap) that fit.
inline bool choose_depthwise(const Conv& conv, WgradPlan& plan) {
  WgradParams& w = plan.params;
  Roles roles{bool(conv.transposed), false};
  plan.hopper = false, plan.depthwise = true, plan.groups = 1;
  for (int most : {conv.kernel[1] * conv.kernel[2], conv.kernel[2], 1}) {
    if (!lay_out(conv, roles, most, plan)) return false;
    int limit = std::min(kHaloLimit + (16 << 10), conv.shared_limit);  // a patch, Q and the sums
    bool fits = Entries(w.block[0], conv.kernel[2]).count <= kLanes && depthwise_wgrad_bytes(conv, w) <= limit;
    if (!fits && most > 1) continue;
    w.tiles_each = ceil_div(w.tiles, std::min(w.tiles, ceil_div(kDepthwiseBlocks, plan.row_blocks)));
    w.splits = ceil_div(w.tiles, w.tiles_each);
    plan_partials(conv, roles, plan);
    return true;
  }
  return false;
}

// Chooses the roles and the taps per block (a plane, a kernel row or a single tap) that load the fewest bytes. A side
// of at most kThinChannels is always P, because as Q it would leave most columns empty.
inline bool choose_blocks(const Conv& conv, WgradPlan& best) {
  int64_t least = -1;
  bool unit = conv.stride[0] * conv.stride[1] * conv.stride[2] == 1, transposed = conv.transposed;
  bool dense = conv.groups == 1, thin_in = dense && conv.sources == 1 && in_channels(conv) <= kThinChannels;
  bool thin_out = dense && conv.out_channels <= kThinChannels;
  for (bool gradient_is_p : {transposed, !transposed}) {
    bool swapped = gradient_is_p != transposed;
    if (swapped && (transposed || !unit || thin_in || !dense)) continue;
    if (!swapped && !transposed && unit && thin_out && !thin_in) continue;
    bool thin = gradient_is_p ? thin_out : thin_in;
    int whole =
        thin ? kThinEntries : (conv.dtype == kFloat32 ? block_taps<float, false>() : block_taps<__half, false>());
    for (int most : {whole, std::min(whole, conv.kernel[2]), 1}) {
      WgradPlan plan;
      plan.hopper = plan.depthwise = false;
      if (!plan_blocks(conv, {gradient_is_p, swapped}, most, plan)) continue;
      int64_t bytes = bytes_asked(conv, plan);
      if (least < 0 || bytes < least) least = bytes, best = plan;
    }
  }
  return least >= 0;
}

// Plans the kernel on strips of G that dgrad has left in the workspace. Returns the bytes up to their end, or 0 if
// there are none or they leave room for fewer taps.
inline int64_t choose_given_strips(const Conv& conv, WgradPlan& plan) {
  if (!conv.source_gradient[0].dx && !conv.source_gradient[1].dx) return 0;
  GatherPlan dgrad;
  StripGather g;
  if (plan_gather(conv, true, dgrad) || !hopper_applies(conv, dgrad) || !plan_hopper(conv, true, dgrad, g)) return 0;
  StripWgrad w;
  if (!plan_strip_wgrad(conv, w, &g.strips) || w.taps.most < plan.strips.taps.most) return 0;
  plan.strips = w;
  return dgrad.workspace;
}

// Plans the strips' kernel, its workspace and splits. Returns false if it does not run this convolution.
inline bool choose_strips(const Conv& conv, WgradPlan& plan) {
  StripWgrad& w = plan.strips;
  plan.depthwise = false;
  plan.hopper = strip_wgrad_applies(conv) && plan_strip_wgrad(conv, w, nullptr);
  if (!plan.hopper) return false;
  Workspace workspace{static_cast<char*>(conv.workspace)};
  workspace.take(choose_given_strips(conv, plan));
  int64_t partial_bytes = int64_t(w.p.taps.taps) * w.p_channels * w.q_channels * int64_t(sizeof(float));
  Splits splits =
      choose_splits(strip_wgrad_blocks(w), w.tiles, strip_wgrad_operations(w), partial_bytes, kHopperSms, 1);
  w.tiles_each = ceil_div(w.tiles, splits.partials);
  w.splits = ceil_div(w.tiles, w.tiles_each);
  w.partial = static_cast<float*>(workspace.take(w.splits * partial_bytes));
  if (!w.rows_given) w.rows.data = workspace.take(w.rows.bytes());
  if (!w.columns_given) w.columns.data = workspace.take(w.columns.bytes());
  plan.workspace = workspace.used;
  plan.reduce = plan_reduce(w.p.taps.taps, w.p_channels, w.q_channels, w.splits, true);
  return true;
}

inline int plan_wgrad(const Conv& conv, WgradPlan& plan) {
  if (conv.kernel[0] * conv.kernel[1] * conv.kernel[2] > kMaxTaps) return kBadGeometry;
  if (is_depthwise(conv)) return choose_depthwise(conv, plan) ? kOk : kTooLarge;
  return choose_strips(conv, plan) || choose_blocks(conv, plan) ? kOk : kTooLarge;
}

}  // namespace fi
