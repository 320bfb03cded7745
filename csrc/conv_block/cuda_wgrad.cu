// Entry points of wgrad. See cuda_abi.cuh for the arguments and cuda.cu for what they return.
#include "conv_block/cuda_plan.cuh"
#include "conv_block/kernels_wgrad_main.cuh"

namespace fi {

struct WgradPlan {
  WgradParams params;
  ReduceParams reduce;
  int columns, row_blocks, column_tiles;
  bool thin;
  int64_t workspace;
};

// P is the side that taps move: the activation; G of a transposed convolution, and G where it is thin, the activation
// is not and the stride is 1 (then the taps' offsets change sign).
struct Roles {
  bool gradient_is_p, inverse;
};

inline Roles choose_roles(const Conv& conv) {
  if (conv.transposed) return {true, false};
  bool unit = conv.stride[0] * conv.stride[1] * conv.stride[2] == 1;
  bool thin_out = conv.out_channels <= kThinChannels && in_channels(conv) > kThinChannels;
  return {unit && thin_out, unit && thin_out};
}

constexpr int kWgradPatchLimit = 56 << 10;  // bytes; two and two tiles of Q fit the 163 KiB of sm_80

// Cuts the taps into blocks of one plane and at most kBlockTaps (thin: kSlots entries), whole kernel rows where they
// fit so that a block's patch stays small.
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
    if (plan.thin && most >= in_row && first % in_row == 0) count = std::min(left_in_plane, most / in_row * in_row);
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

inline void choose_sources(const Conv& conv, const Roles& roles, WgradPlan& plan) {
  GatherParams& p = plan.params.p;
  WgradParams& w = plan.params;
  p.sources = roles.gradient_is_p ? 1 : conv.sources;
  w.q_sources = roles.gradient_is_p ? conv.sources : 1;
  w.p_channels = roles.gradient_is_p ? conv.out_channels : in_channels(conv);
  w.q_channels = roles.gradient_is_p ? in_channels(conv) : conv.out_channels;
  plan.thin = p.sources == 1 && w.p_channels <= kThinChannels;
  plan.columns = w.q_channels <= 32 || conv.dtype == kFloat32 ? 32 : 64;
  plan.row_blocks = plan.column_tiles = p.chunks[1] = w.q_tiles[1] = 0;
  for (int i = 0; i < p.sources; ++i) {
    p.source[i] = roles.gradient_is_p ? conv.gradient : conv.source[i];
    plan.row_blocks += p.chunks[i] = ceil_div(p.source[i].channels, kChunk);
  }
  for (int i = 0; i < w.q_sources; ++i) {
    w.q[i] = roles.gradient_is_p ? conv.source[i] : conv.gradient;
    plan.column_tiles += w.q_tiles[i] = ceil_div(w.q[i].channels, plan.columns);
  }
  plan.row_blocks *= w.blocks;
  for (int d = 0; d < 3; ++d) {
    p.in_size[d] = roles.gradient_is_p ? conv.out[d] : conv.in[d];
    p.out_size[d] = roles.gradient_is_p ? conv.in[d] : conv.out[d];
  }
}

// Splits until the grid fills the machine about twice; every split costs a partial the size of the weight.
inline int choose_splits(int blocks, int tiles) {
  return std::max(1, std::min(tiles, (2 * kWantedBlocks + blocks - 1) / blocks));
}

inline int plan_wgrad(const Conv& conv, WgradPlan& plan) {
  Roles roles = choose_roles(conv);
  GatherParams& p = plan.params.p;
  if (!make_taps(conv, roles.inverse, p.taps)) return kBadGeometry;
  p.batch = conv.batch;
  p.kernel_w = conv.kernel[2];
  p.pair_step = p.kernel_w > 1 ? p.taps.tap[1].w - p.taps.tap[0].w : 0;
  plan.params.blocks = 1;
  choose_sources(conv, roles, plan);
  p.tile_bits = choose_tile_bits(p.taps, p.out_size);
  cut_taps(conv, plan.thin ? kSlots : kBlockTaps, plan);
  int position_bytes = (plan.thin ? kVector : kChunk) * size_of(conv.dtype) + (plan.thin ? 0 : 16);
  if (p.patch.rows * p.patch.columns * position_bytes > kWgradPatchLimit) cut_taps(conv, 1, plan);
  int unit[3] = {1, 1, 1};
  plan.params.q_box = make_box(kTileRows >> p.tile_bits, 1 << p.tile_bits, 0, 0, unit);
  plan.row_blocks *= plan.params.blocks;
  p.tiles[0] = p.out_size[0];
  p.tiles[1] = ceil_div(p.out_size[1], kTileRows >> p.tile_bits);
  p.tiles[2] = ceil_div(p.out_size[2], 1 << p.tile_bits);
  int64_t tiles = int64_t(p.batch) * p.tiles[0] * p.tiles[1] * p.tiles[2];
  if (tiles >= 1ll << 31) return kTooLarge;
  WgradParams& w = plan.params;
  w.tiles = int(tiles);
  w.tiles_each = ceil_div(w.tiles, choose_splits(plan.row_blocks * plan.column_tiles, w.tiles));
  w.splits = ceil_div(w.tiles, w.tiles_each);
  Workspace workspace{static_cast<char*>(conv.workspace)};
  int64_t each = int64_t(p.taps.taps) * w.p_channels * w.q_channels;
  w.partial = static_cast<float*>(workspace.take(w.splits * each * int64_t(sizeof(float))));
  plan.workspace = workspace.used;
  const int64_t* stride = conv.dweight_stride;
  plan.reduce = {p.taps.taps,
                 w.p_channels,
                 w.q_channels,
                 w.splits,
                 stride[!roles.gradient_is_p],
                 stride[roles.gradient_is_p],
                 {stride[2], stride[3], stride[4]},
                 {conv.kernel[0], conv.kernel[1], conv.kernel[2]}};
  return kOk;
}

template <class T, int BN, bool thin>
static int launch_wgrad(const WgradPlan& plan, void* stream) {
  int bytes = wgrad_bytes<T, BN, thin>(plan.params.p);
  int status = allow_shared(wgrad_kernel<T, BN, thin>, bytes);
  if (status) return status;
  dim3 grid(plan.row_blocks * plan.column_tiles, plan.params.splits);
  FI_LAUNCH((wgrad_kernel<T, BN, thin>), grid, kThreads, bytes, stream, plan.params, bytes);
  return launched();
}

template <class T, bool thin>
static int launch_columns(const WgradPlan& plan, void* stream) {
  if constexpr (!std::is_same<T, float>::value) {
    if (plan.columns == 64) return launch_wgrad<T, 64, thin>(plan, stream);
  }
  return launch_wgrad<T, 32, thin>(plan, stream);
}

}  // namespace fi

using namespace fi;

// Bytes of workspace, or a negative Status; conv.workspace is not read.
FI_EXPORT int64_t fi_conv_wgrad_workspace(const Conv* conv) {
  Conv copy = *conv;
  copy.workspace = nullptr;
  WgradPlan plan;
  int status = plan_wgrad(copy, plan);
  return status ? status : plan.workspace;
}

// Blocks, bytes and shared memory of wgrad, with its partials.
FI_EXPORT int fi_conv_wgrad_footprint(const Conv* conv, Footprint* out) {
  WgradPlan plan;
  if (int status = plan_wgrad(*conv, plan)) return status;
  const GatherParams& p = plan.params.p;
  int64_t size = size_of(conv->dtype), rows = int64_t(plan.row_blocks) * plan.column_tiles;
  int64_t patch = int64_t(p.patch.rows) * p.patch.columns * (plan.thin ? 2 * plan.params.p_channels : kChunk) * size;
  int64_t q = int64_t(kTileRows) * plan.columns * size;
  int64_t maps_p = p.source[0].addend ? 2 : 1, maps_q = plan.params.q[0].addend ? 2 : 1;
  *out = {rows * plan.params.splits, rows * plan.params.tiles * (patch * maps_p + q * maps_q) + 2 * plan.workspace, 0};
  out->shared_bytes = with_factors(conv->dtype, [&](auto t) {
    using T = decltype(t);
    if (plan.thin) return plan.columns == 64 ? wgrad_bytes<T, 64, true>(p) : wgrad_bytes<T, 32, true>(p);
    return plan.columns == 64 ? wgrad_bytes<T, 64, false>(p) : wgrad_bytes<T, 32, false>(p);
  });
  return kOk;
}

// dweight from the sources and the gradient.
FI_EXPORT int fi_conv_wgrad(const Conv* conv, void* stream) {
  WgradPlan plan;
  if (int status = plan_wgrad(*conv, plan)) return status;
  return with_factors(conv->dtype, [&](auto t) -> int {
    using T = decltype(t);
    int status = plan.thin ? launch_columns<T, true>(plan, stream) : launch_columns<T, false>(plan, stream);
    if (status) return status;
    int64_t total = int64_t(plan.reduce.taps) * plan.reduce.p_channels * plan.reduce.q_channels;
    int blocks = int(std::min<int64_t>((total + kThreads - 1) / kThreads, 4096));
    FI_LAUNCH(reduce_kernel<Map<T>>, blocks, kThreads, 0, stream, plan.params.partial, plan.reduce,
              static_cast<Map<T>*>(conv->dweight));
    return launched();
  });
}
