// Forward and dgrad of one source with three or four channels (first layers, guidance, and the gradient of a
// three-channel output). The tile's whole halo, with all planes, is activated once into shared memory.
//
// A k column is (tap, channel of four), so that 5x5 taps fill 32-channel steps. Eight columns are an "entry": a tap and
// its neighbour along W. ldmatrix needs an entry in 16 contiguous bytes, so each position of the halo holds its own
// four channels and those of the position that the neighbouring tap reads:
//
//   halo[plane][row][column][0..3] = a(position), [4..7] = a(position + pair_step along W)
//
// Grid, weight ring and epilogue are as in kernels/gather.cuh. Dead taps are not skipped (the halo is small).
#pragma once
#include "conv_block/cuda/kernels/gather.cuh"

namespace fi {

constexpr int kThinChannels = 4;

template <class T>
constexpr int halo_elements(const GatherParams& p) {
  return p.planes * p.patch.rows * p.patch.columns * kVector;
}

template <class T, int BN>
int thin_bytes(const GatherParams& p) {
  int loop = shared_part(halo_elements<T>(p) * int(sizeof(T))) +
             shared_part(kRing * kChunk * b_pitch<T>(BN) * int(sizeof(T))) +
             shared_part(p.k_padded / kVector * int(sizeof(int)));
  return std::max(loop, epilogue_bytes(BN));
}

// Writes the four channels of an activation at one position to `to`; zero outside and beyond the source's channels.
template <class T>
__device__ inline void activate_four(const GatherParams& p, const ChannelParams& params, int64_t plane, int h, int w,
                                     T* to) {
  const Source& source = p.source[0];
  bool inside = plane >= 0 && unsigned(h) < unsigned(p.in_size[1]) && unsigned(w) < unsigned(p.in_size[2]);
  int64_t at = inside ? ((plane * p.in_size[1] + h) * p.in_size[2] + w) * source.channels : 0;
  struct alignas(kThinChannels * sizeof(T)) {
    T v[kThinChannels];
  } four;
#pragma unroll
  for (int i = 0; i < kThinChannels; ++i) {
    float value = 0;
    if (inside && i < source.channels) {
      float addend = source.addend ? to_float(static_cast<const Map<T>*>(source.addend)[at + i]) : 0.0f;
      value = activate(to_float(static_cast<const Map<T>*>(source.x)[at + i]), params, i) + addend;
    }
    four.v[i] = from_float<T>(value);
  }
  *reinterpret_cast<decltype(four)*>(to) = four;
}

template <class T>
__device__ void load_halo(const GatherParams& p, const Tile& tile, T* halo) {
  ChannelParams params = load_params(p.source[0], 0);
  int box = p.patch.rows * p.patch.columns;
  for (int i = threadIdx.x; i < 2 * p.planes * box; i += kThreads) {  // half a position each
    int index = i / 2 / box, row = i / 2 % box / p.patch.columns, column = i / 2 % p.patch.columns;
    const PatchOrigin& origin = p.origin[index];
    int t = tile.t * p.taps.step[0] + origin.t;
    int h = tile.h * p.taps.step[1] + origin.h + row * p.patch.step_h;
    int w = tile.w * p.taps.step[2] + origin.w + column * p.patch.step_w + i % 2 * p.pair_step;
    int64_t plane = t >= 0 && t < p.in_size[0] ? int64_t(tile.n) * p.in_size[0] + t : -1;
    activate_four(p, params, plane, h, w, halo + i * kThinChannels);
  }
}

// The halo position that each entry of k reads. Padding entries read the first one (their weights are zero).
__device__ inline void list_entries(const GatherParams& p, int* entries) {
  int along_w = ceil_div(p.kernel_w, 2);
  for (int i = threadIdx.x; i < p.k_padded / kVector; i += kThreads) {
    int offset = 0;
    if (i < p.pairs) {
      const Tap& tap = p.taps.tap[i / along_w * p.kernel_w + i % along_w * 2];
      const PatchOrigin& origin = p.origin[tap.group];
      offset = (tap.group * p.patch.rows + tap.h - origin.h) * p.patch.columns + tap.w - origin.w;
    }
    entries[i] = offset;
  }
}

template <class T, int BN>
__global__ void __launch_bounds__(kThreads, 2) thin_kernel(const __grid_constant__ GatherParams p, int shared_bytes) {
  FI_DYNAMIC_SHARED(memory);
  SharedArena arena(memory, shared_bytes);
  T* halo = arena.take<T>(halo_elements<T>(p));
  T* ring = arena.take<T>(kRing * kChunk * b_pitch<T>(BN));
  int* entries = arena.take<int>(p.k_padded / kVector);
  Tile tile = find_tile(p);
  SegmentTile place = find_segment<BN>(p);
  int first_column = place.segment->first_column + place.channel, steps = p.k_padded / kChunk;

  auto fetch = [&](int step) {
    if (step < steps)
      fetch_weights<T, BN>(p, step * kChunk, first_column, ring + step % kRing * kChunk * b_pitch<T>(BN));
    cp_async_commit();
  };
  LaneRows<T, BN> rows;
  rows.fill([&](int m) { return box_position(p.patch, p.tile_bits, m) * kVector; });
  fetch(0);
  fetch(1);
  list_entries(p, entries);
  load_halo(p, tile, halo);
  Accumulators<BN> acc = {};
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<1>();
    __syncthreads();  // this step's weights (and the halo) are complete; the previous step's are free
    fetch(step + 2);
    multiply_tile<T, BN>(acc, halo, ring + step % kRing * kChunk * b_pitch<T>(BN), rows,
                         [&](int k8) { return entries[step * (kChunk / kVector) + k8] * kVector; });
  }
  cp_async_wait<0>();
  epilogue<Map<T>, BN>(p, tile, find_segment<BN>(p), blockIdx.x, memory, shared_bytes, WholeBlock(),
                       [&](float* staged) { stage_accumulators<BN>(acc, staged); });
}

}  // namespace fi
