// Decides when forward and dgrad run on wgmma, and plans them. The kernels are in hopper/fwd_dgrad.cu, which is
// compiled for sm_90a only and may be missing from a library.
#pragma once
#include "conv_block/cuda/hopper/strips.cuh"

namespace fi {

constexpr int kWeightStages = 4, kMostPatchStages = 4;

// What the two consumers of a block divide. Each has 64 output channels and `each` tiles.
//   channels  the same tiles, other output channels
//   tiles     other tiles (of layers with at most 64 output channels)
//   chunks    the same tile and channels; chunks of input channels in turns, summed at the end (small grids)
enum class Divided { channels, tiles, chunks };

struct StripGather {
  Strips strips;
  StripTaps taps;
  Divided divided;
  int each, patch_stages;
  bool keeps_zeros;               // the block writes rows of zeros into the stages once, and copies none
  int phase_tiles, phase_blocks;  // of each phase of the output

  __host__ __device__ int columns() const { return divided == Divided::channels ? 2 * kStripChunk : kStripChunk; }
  __host__ __device__ int tiles() const { return divided == Divided::tiles ? kConsumers * each : each; }  // of a block
  __host__ __device__ int chunks() const { return divided == Divided::chunks ? kConsumers : 1; }          // of a step
  __host__ __device__ int chunk_bytes() const { return columns() * kStripChunk * 2; }                     // of weights
  __host__ __device__ int weight_bytes() const { return chunks() * chunk_bytes(); }
  __host__ __device__ int patches() const { return chunks() * tiles(); }  // of a stage
  __host__ __device__ int patch_bytes() const { return patches() * taps.patch_bytes(strips); }
  int shared_bytes() const {
    int barriers = shared_part(2 * (kWeightStages + patch_stages) * int(sizeof(uint64_t)));
    int loop = shared_part(kWeightStages * weight_bytes()) + shared_part(patch_stages * patch_bytes());
    return barriers + std::max(loop, kConsumers * epilogue_bytes(kStripChunk));
  }
};

}  // namespace fi

// Writes the strips, packs the weights and launches. Null if the library has no code for sm_90a.
FI_EXPORT __attribute__((weak)) int fi_hopper_launch(const fi::Conv* conv, const fi::GatherPlan* plan,
                                                     const fi::StripGather* gather, void* stream);

namespace fi {

inline bool hopper_applies(const Conv& conv, const GatherPlan& plan) {
  if (!conv.hopper || !fi_hopper_launch || size_of(conv.dtype) != 2 || plan.thin || conv.groups > 1) return false;
  int in = in_channels(conv), out = conv.out_channels;
  return conv.hopper == 2 || (std::max(in, out) >= kWideChannels && std::min(in, out) >= kNarrowChannels);
}

// Whether all patches of a block have their first and last row in the same place.
inline bool rows_agree(const TapTable& table, const StripTaps& taps) {
  for (int phase = 0; phase < table.phases; ++phase)
    for (int i = taps.first[phase]; i < taps.first[phase + 1]; ++i) {
      const StripGroup &first = taps.group[taps.first[phase]], &group = taps.group[i];
      if (group.row != first.row || group.rows != first.rows || group.pieces != first.pieces) return false;
    }
  return true;
}

// Calls visit(group, phase, first tile) for every block of a column tile and every group that it multiplies.
template <class F>
void for_each_step(const GatherParams& p, const StripGather& g, F visit) {
  for (int phase = 0; phase < p.taps.phases; ++phase)
    for (int block = 0; block < g.phase_blocks; ++block)
      for (int i = g.taps.first[phase]; i < g.taps.first[phase + 1]; ++i) {
        bool live = false;
        for (int tile = 0; tile < g.tiles(); ++tile)
          live = live ||
                 is_live(g.strips, g.taps.group[i], strip_tile(p, phase, block * g.tiles() + tile), p.taps.step[0]);
        if (live) visit(g.taps.group[i], phase, block * g.tiles());
      }
}

// Chooses the patches that load the fewest bytes of those that fit. Returns false if none fits.
inline bool choose_patches(const GatherParams& p, StripGather& g) {
  int64_t least = -1;
  StripGather best = g;
  for (Grouping how : {Grouping{false, false, kMaxTaps}, Grouping{true, false, kMaxTaps},
                       Grouping{true, true, kMaxTaps}, Grouping{true, true, 1}}) {
    if (!group_taps(p.taps, g.strips, how, g.taps)) continue;
    g.keeps_zeros = rows_agree(p.taps, g.taps);
    int64_t bytes = 0;
    for (int i = 0; i < g.taps.first[p.taps.phases]; ++i) bytes += g.taps.group[i].rows * g.taps.group[i].pieces;
    for (g.patch_stages = kMostPatchStages; g.patch_stages > 2 && g.shared_bytes() > kHopperShared;) --g.patch_stages;
    if (g.shared_bytes() <= kHopperShared && (least < 0 || bytes < least)) least = bytes, best = g;
  }
  g = best;
  return least >= 0;
}

// Adapts plan_gather's plan. Returns false if this path does not run the convolution; the plan is then unchanged.
inline bool plan_hopper(const Conv& conv, bool backward, GatherPlan& given, StripGather& g) {
  GatherPlan plan = given;
  GatherParams& p = plan.params;
  int64_t tiles = plan_strip_tiles(p);
  if (tiles * p.taps.phases >= 1ll << 31) return false;
  g.phase_tiles = int(tiles);
  plan.tiles = int(tiles) * p.taps.phases;
  int out[2];
  for (int d = 0; d < 2; ++d) out[d] = ceil_div(p.out_size[1 + d], p.taps.out_step[1 + d]);
  plan_strips(p.taps, p.batch, p.in_size, out, g.strips);
  plan_sources(conv, backward, plan, kStripChunk);
  for (int i = 0; i < 2; ++i) {
    g.strips.chunks[i] = p.chunks[i];
    if (p.chunks[i]) g.strips.source[i] = p.source[i];
  }
  int widest = 0;
  for (int i = 0; i < p.segments; ++i) widest = std::max(widest, p.segment[i].channels);
  int64_t least = -1;
  StripGather best = g;
  Divided plain = widest <= kStripChunk ? Divided::tiles : Divided::channels;
  // Shares of a round of blocks on all SMs. Single tiles load more weights per product, chunks more patches.
  struct Choice {
    Divided divided;
    int each, cost;
  };
  for (Choice choice : {Choice{Divided::chunks, 1, 6}, Choice{plain, 1, 11}, Choice{plain, 2, 20}}) {
    g.divided = choice.divided, g.each = choice.each;
    if ((p.chunks[0] + p.chunks[1]) % g.chunks() || !choose_patches(p, g)) continue;
    g.phase_blocks = ceil_div(g.phase_tiles, g.tiles());
    int64_t blocks = int64_t(g.phase_blocks) * p.taps.phases, columns = 0;
    for (int i = 0; i < p.segments; ++i) columns += ceil_div(p.segment[i].channels, g.columns());
    int64_t cost = (blocks * columns + kHopperSms - 1) / kHopperSms * choice.cost;
    if (least < 0 || cost < least) least = cost, best = g;
  }
  if (least < 0) return false;
  g = best;
  Workspace workspace{static_cast<char*>(conv.workspace)};
  plan_segments(conv, backward, plan, workspace, g.columns());
  plan.columns = g.columns();
  plan_column_tiles(plan);
  p.weight = workspace.take(int64_t(plan.taps) * p.k_padded * p.n_padded * 2);
  g.strips.data = workspace.take(g.strips.bytes());
  plan.workspace = workspace.used;
  plan.hopper = true;
  given = plan;
  return true;
}

// Counts what the blocks copy and multiply.
inline Footprint strip_gather_footprint(const GatherPlan& plan, const StripGather& g) {
  const GatherParams& p = plan.params;
  int chunks = p.chunks[0] + p.chunks[1];
  int64_t blocks = int64_t(g.phase_blocks) * p.taps.phases * plan.column_tiles, steps = 0, groups = 0;
  Footprint found{blocks, 0, g.shared_bytes(), kConsumers, g.columns(), 0, g.each};
  int64_t row = int64_t(g.strips.columns) * kStripPlanes * 16, block = -1;
  for_each_step(p, g, [&](const StripGroup& group, int phase, int first_tile) {
    ++groups, steps += group.count;
    found.loads += int64_t(group.count) * g.chunk_bytes() * chunks;
    int64_t here = int64_t(phase) * g.phase_tiles + first_tile;
    bool first = here != block;  // group of the block
    block = here;
    for (int tile = 0; tile < g.tiles(); ++tile) {
      int64_t live = patch_rows(g.strips, group, strip_tile(p, phase, first_tile + tile)).count;
      int64_t copied = g.keeps_zeros ? live : group.rows;
      found.loads += copied * group.pieces * row * chunks;
      if (first) found.zeroed += (group.rows - copied) * group.pieces * row * g.chunks() * g.patch_stages;
    }
  });
  found.loads *= plan.column_tiles, found.zeroed *= plan.column_tiles;
  found.multiplied = steps * chunks * plan.column_tiles * g.tiles() * kTileRows * g.columns() * kStripChunk;
  found.steps = std::max<int64_t>(1, steps / std::max<int64_t>(1, groups));
  found.staged = strip_bytes(g.strips);
  return found;
}

}  // namespace fi
