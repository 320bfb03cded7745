// wgrad: dw[tap][p][q] = sum over positions j of P[j * step + tap][p] * Q[j][q].
//
// For a convolution P is the activation and Q is G. For a transposed one, and for a convolution with three output
// channels (P should be the thin side), it is the reverse. Both are computed from raw maps on load.
//
//   grid     x: block of rows (tap, p) and BN columns q    y: split of the positions
//   group    128 threads (threadIdx.y); a block has one or two. Each processes half of the split's positions with its
//            own shared memory and barriers. At the end the first adds the second's sums and stores the result.
//   rows     slots of eight: up to nine taps of one plane x 32 channels, or 16 thin entries (kernels/thin.cuh)
//   step     one tile of 128 positions. Its patch of P serves all taps of the block. The next tile's patch and Q are
//            loaded in slices between the eight k16 steps. Dead taps are skipped, and tiles where all taps are dead.
//   partial  [split][tap][p][q] float32, all written; reduce_kernel sums the splits in order. With groups a chunk of P
//            meets only Q's channels of its groups, q counts from the first of those, and reduce_groups_kernel follows.
#pragma once
#include "conv_block/cuda/kernels/params.cuh"
#include "conv_block/cuda/kernels/thin.cuh"

namespace fi {

// Taps per block, each two m16 tiles of 16 channels (thin: of two entries). Nine make a 3x3 kernel, so that one patch
// and one tile of Q serve all of it. float32 has at most four, because it holds every sum twice.
template <class T, bool thin>
constexpr int block_taps() {
  return thin || std::is_same<T, float>::value ? 4 : 9;
}

constexpr int kMostSlots = 4 * 9, kThinEntries = 16;
constexpr int kMostGroups = 2;  // of kThreads per block

struct TapBlock {
  int16_t t, h, w;       // offset of the patch
  int16_t first, count;  // range of taps, or of thin entries
};

struct WgradParams {
  GatherParams p;  // taps, patch, tile, sources and sizes, as in forward from P to the positions j
  TapBlock block[kMaxTaps];
  int blocks;                 // blocks of taps
  PatchShape q_box;           // the tile itself
  int q_sources, q_tiles[2];  // column tiles per source of Q
  Source q[2];
  int p_channels, q_channels;     // in all; with groups, q_channels counts the columns of a chunk of P
  int splits, tiles, tiles_each;  // of a group
  float* partial;
};

// The source and first channel of P in a row block, or of Q in a column tile.
struct Part {
  const Source* source;
  int first, channel;  // first of the source in the concatenation; first of the part in the source
};

__device__ inline Part find_part(const Source* sources, int in_first, int index, int width) {
  bool second = index >= in_first;
  return {sources + second, second ? sources[0].channels : 0, (index - (second ? in_first : 0)) * width};
}

__device__ inline Tile nth_tile(const GatherParams& p, int index) {
  Tile tile;
  tile.phase = 0;
  tile.w = index % p.tiles[2] << p.tile_bits;
  index /= p.tiles[2];
  tile.h = index % p.tiles[1] * (kTileRows >> p.tile_bits);
  index /= p.tiles[1];
  tile.t = index % p.tiles[0];
  tile.n = index / p.tiles[0];
  tile.rows = min(p.out_size[1] - tile.h, kTileRows >> p.tile_bits);
  tile.columns = min(p.out_size[2] - tile.w, 1 << p.tile_bits);
  return tile;
}

// Bit i: the block's tap i reads inside the input for this tile. Thin entries count as one tap.
template <bool thin>
__device__ inline unsigned live_taps(const GatherParams& p, const Tile& tile, const TapBlock& block) {
  if (thin) {
    int t = tile.t * p.taps.step[0] + block.t;
    return t >= 0 && t < p.in_size[0] ? ~0u : 0u;
  }
  unsigned bits = 0;
  for (int i = 0; i < block.count; ++i) bits |= unsigned(is_live(p, tile, p.taps.tap[block.first + i])) << i;
  return bits;
}

// Elements between adjacent positions of P's patch.
template <class T, bool thin>
constexpr int patch_pitch() {
  return thin ? kVector : b_pitch<T>(kChunk);
}

// Vectors of channels of P and Q.
constexpr int kVectorsOfP = kChunk / kVector;
template <int BN>
constexpr int kWgradVectors = kVectorsOfP + BN / kVector;

// Shared memory of one group.
template <class T, int BN, bool thin>
int wgrad_bytes(const GatherParams& p) {
  int patch = p.patch.rows * p.patch.columns * patch_pitch<T, thin>() * int(sizeof(T));
  return 2 * shared_part(patch) + 2 * shared_part(kTileRows * b_pitch<T>(BN) * int(sizeof(T))) +
         shared_part(kMostSlots * int(sizeof(int))) + shared_part(kWgradVectors<BN> * int(sizeof(ChannelParams)));
}

// Warps are 2 x 2. A warp's m16 tile i has slots 4 i + 2 warp_m and the next one: tap i, sixteen of its channels.
template <int kM, int BN>
using WgradSums = float[kM][BN / 16][4];

// Shared memory for adding one group's sums to another's; adjacent threads have adjacent 16 bytes.
template <int kM, int BN>
constexpr int merge_bytes() {
  return shared_part(int(sizeof(WgradSums<kM, BN>)) * kThreads);
}

template <int kM, int BN>
__device__ __forceinline__ void stage_sums(const WgradSums<kM, BN>& acc, float4* sums) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < BN / 16; ++n)
      sums[(m * (BN / 16) + n) * kThreads + threadIdx.x] =
          make_float4(acc[m][n][0], acc[m][n][1], acc[m][n][2], acc[m][n][3]);
}

template <int kM, int BN>
__device__ __forceinline__ void add_sums(WgradSums<kM, BN>& acc, const float4* sums) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < BN / 16; ++n) {
      float4 other = sums[(m * (BN / 16) + n) * kThreads + threadIdx.x];
      acc[m][n][0] += other.x, acc[m][n][1] += other.y, acc[m][n][2] += other.z, acc[m][n][3] += other.w;
    }
}

__device__ __forceinline__ int slot_of(int m, int half) { return 4 * m + threadIdx.x / 64 * 2 + half; }

// acc += P^T Q over the tile's positions k ... k + 15 (float32: k ... k + 31).
template <class T, int kM, int BN, class R>
__device__ __forceinline__ void multiply_positions(WgradSums<kM, BN>& acc, const T* patch, const T* q, const int* slots,
                                                   unsigned live, int k, R row_of) {
  int lane = threadIdx.x % 32;
  const T* q_base = q + threadIdx.x / 32 % 2 * (BN / 2);
  if constexpr (sizeof(T) == 2) {
    const T* row = patch + row_of(k + lane / 16 * 8 + lane % 8);
    uint32_t b[BN / 32][4];
#pragma unroll
    for (int n = 0; n < BN / 32; ++n)
      ldmatrix_x4<true>(b[n], q_base + (k + lane % 16) * b_pitch<T>(BN) + n * 16 + lane / 16 * 8);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (!(live >> m & 1)) continue;
      uint32_t a[4];
      ldmatrix_x4<true>(a, row + slots[slot_of(m, lane / 8 % 2)]);
#pragma unroll
      for (int n = 0; n < BN / 32; ++n) {
        uint32_t left[2] = {b[n][0], b[n][1]}, right[2] = {b[n][2], b[n][3]};
        mma_m16n8k16<T>(acc[m][2 * n], a, left);
        mma_m16n8k16<T>(acc[m][2 * n + 1], a, right);
      }
    }
  } else if constexpr (std::is_same<T, Tf32>::value) {
    int group = lane / 4, t = lane % 4;
#pragma unroll
    for (int k8 = k; k8 < k + 16; k8 += 8) {
      const T *near = patch + row_of(k8 + t) + group, *far = patch + row_of(k8 + t + 4) + group;
      uint32_t b[BN / 16][2];
#pragma unroll
      for (int n = 0; n < BN / 16; ++n) load_b_tf32(b[n], q_base + k8 * b_pitch<T>(BN) + n * 8, b_pitch<T>(BN));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if (!(live >> m & 1)) continue;
        int first = slots[slot_of(m, 0)], second = slots[slot_of(m, 1)];
        uint32_t a[4] = {near[first].bits, near[second].bits, far[first].bits, far[second].bits};
#pragma unroll
        for (int n = 0; n < BN / 16; ++n) mma_m16n8k8(acc[m][n], a, b[n]);
      }
    }
  } else {
    int group = lane / 4, t = lane % 4;
    WgradSums<kM, BN> step = {};
#pragma unroll 4
    for (int i = 0; i < 32; ++i) {
      const T* row = patch + row_of(k + i) + group;
      float2 b[BN / 16];
#pragma unroll
      for (int n = 0; n < BN / 16; ++n)
        b[n] = *reinterpret_cast<const float2*>(q_base + (k + i) * b_pitch<T>(BN) + n * 8 + 2 * t);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if (!(live >> m & 1)) continue;
        float a[2] = {row[slots[slot_of(m, 0)]], row[slots[slot_of(m, 1)]]};
#pragma unroll
        for (int n = 0; n < BN / 16; ++n) fma_tile(step[m][n], a, b[n]);
      }
    }
    add_tiles<kM, BN / 16>(acc, step);
  }
}

// The tap (or -1) and channel of P of row `group` of a slot.
template <bool thin>
__device__ inline int2 row_meaning(const GatherParams& p, const TapBlock& block, int chunk_channel, int slot,
                                   int group) {
  if (thin) {
    int entry = block.first + slot, along_w = ceil_div(p.kernel_w, 2), w = entry % along_w * 2 + group / 4;
    bool exists = slot < block.count && w < p.kernel_w;
    return {exists ? entry / along_w * p.kernel_w + w : -1, group % 4};
  }
  return {slot / 4 < block.count ? block.first + slot / 4 : -1, chunk_channel + slot % 4 * kVector + group};
}

// Two lanes exchange halves of an mma tile, so that each stores four adjacent columns of one row: the even lane of the
// upper row, the odd lane of the lower row.
__device__ __forceinline__ float4 join_columns(const float (&d)[4]) {
  bool odd = threadIdx.x & 1;
  float first = __shfl_xor_sync(~0u, odd ? d[0] : d[2], 1), second = __shfl_xor_sync(~0u, odd ? d[1] : d[3], 1);
  return odd ? make_float4(first, second, d[2], d[3]) : make_float4(d[0], d[1], first, second);
}

template <int kM, int BN, bool thin>
__device__ void store_partial(const WgradParams& w, const TapBlock& block, const Part& rows, const Part& columns,
                              const WgradSums<kM, BN>& acc) {
  int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  bool aligned = w.q_channels % 4 == 0 && columns.source->channels % 4 == 0 && columns.first % 4 == 0;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    int2 row = row_meaning<thin>(w.p, block, rows.channel, slot_of(m, t % 2), group);
    bool exists = row.x >= 0 && row.y < rows.source->channels;
    int tap = exists ? w.p.taps.tap[row.x].index : 0;
    float* to = w.partial +
                ((int64_t(blockIdx.y) * w.p.taps.taps + tap) * w.p_channels + rows.first + row.y) * w.q_channels +
                columns.first;
#pragma unroll
    for (int n = 0; n < BN / 16; ++n) {
      float4 value = join_columns(acc[m][n]);
      int q = columns.channel + threadIdx.x / 32 % 2 * (BN / 2) + n * 8 + t / 2 * 4;
      int valid = exists ? columns.source->channels - q : 0;
      if (aligned) {
        if (valid > 0) *reinterpret_cast<float4*>(to + q) = value;
        continue;
      }
      float each[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < valid) to[q + i] = each[i];
    }
  }
}

}  // namespace fi
