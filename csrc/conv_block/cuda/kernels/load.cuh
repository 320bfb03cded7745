// Loads a box of positions from global to shared memory through registers, and activates each value on the way.
#pragma once
#include "conv_block/cuda/kernels/tile.cuh"

namespace fi {

constexpr int kSliceVectors = 2;  // per thread and slice: enough to hide a load behind a step's products

// A box of positions of one plane: the positions that some taps read for one tile.
struct PatchShape {
  int rows, columns;
  int step_h, step_w;  // input step between its positions: the convolution's step on axes where the taps agree, else 1
  int tile_h, tile_w;  // box step between adjacent positions of the tile
  uint32_t inverse;    // ceil(2^20 / columns): position * inverse >> 20 is its row
};

// The box of a tile_h x tile_w tile and taps with that span of offsets, for the convolution's steps.
__host__ __device__ inline PatchShape make_box(int tile_h, int tile_w, int span_h, int span_w, const int* step) {
  int step_h = span_h ? 1 : step[1], step_w = span_w ? 1 : step[2];
  PatchShape box{0, 0, step_h, step_w, step[1] / step_h, step[2] / step_w, 0};
  box.rows = (tile_h - 1) * box.tile_h + span_h + 1;
  box.columns = (tile_w - 1) * box.tile_w + span_w + 1;
  box.inverse = ((1u << 20) + box.columns - 1) / box.columns;
  return box;
}

// The box position that row m of the tile reads. A tile's rows have 1 << tile_bits positions.
__device__ __forceinline__ int box_position(const PatchShape& box, int tile_bits, int m) {
  return (m >> tile_bits) * box.tile_h * box.columns + (m & ((1 << tile_bits) - 1)) * box.tile_w;
}

// A thread's part of a slice between reading and storing it, with its channels' parameters. Loaders with alternating
// slices share one, as there are no registers for two.
template <class T>
struct Slice {
  ChannelParams params;
  Vector<Map<T>> value[kSliceVectors], more[kSliceVectors];
  bool inside[kSliceVectors], adds;  // adds: the source has an addend

  __device__ void set_params(const Source& source, const ChannelParams& of_channels) {
    params = of_channels;
    adds = source.addend;
  }
};

// Loads a box in slices: load() reads, store() activates and writes to shared memory at `pitch` values per position.
// A thread always has the same one of the `groups` vectors of a position, so its parameters stay in registers.
template <class T, int groups, int pitch = fi::pitch<T>(groups * kVector)>
struct BoxLoader {
  PatchShape box;
  const Map<T>*x, *addend;  // of the plane, at the thread's channels; addend may be null
  int height, width, h, w;  // of the plane; first position of the box
  int rows;                 // of the box, or 0 if the plane is outside the input or the thread has no channels
  int channels, channel, valid;
  bool aligned;

  __device__ BoxLoader(const PatchShape& box_, const int* size) : box(box_), height(size[1]), width(size[2]) {}

  __device__ int slices() const { return ceil_div(box.rows * box.columns * groups, kSliceVectors * kThreads); }

  // Selects the source's channels from first_channel on.
  __device__ void set_channels(const Source& source, int first_channel) {
    channel = first_channel + threadIdx.x % groups * kVector;
    channels = source.channels;
    valid = max(0, min(kVector, channels - channel));
    aligned = vectors_aligned(source);
  }

  // Selects the box at (first_h, first_w) of a plane. The plane is negative outside the input.
  __device__ void set_origin(const Source& source, int64_t plane, int first_h, int first_w) {
    h = first_h, w = first_w;
    int64_t offset = plane * height * width * channels + channel;
    x = static_cast<const Map<T>*>(source.x) + offset;
    rows = plane < 0 || valid <= 0 ? 0 : box.rows;
    addend = source.addend ? static_cast<const Map<T>*>(source.addend) + offset : nullptr;
  }

  __device__ int position(int slice, int i) const {
    return (slice * kSliceVectors + i) * (kThreads / groups) + threadIdx.x / groups;
  }

  __device__ void load(int slice, Slice<T>& to) const {
    int64_t offset[kSliceVectors];
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(slice, i), row = at * box.inverse >> 20;
      int y = h + row * box.step_h, z = w + (at - row * box.columns) * box.step_w;
      to.inside[i] = row < rows && unsigned(y) < unsigned(height) && unsigned(z) < unsigned(width);
      offset[i] = int64_t(y * width + z) * channels;
      to.value[i] = load_or_zero(x + offset[i], to.inside[i] && aligned);
    }
    if (to.adds)
#pragma unroll
      for (int i = 0; i < kSliceVectors; ++i) to.more[i] = load_or_zero(addend + offset[i], to.inside[i] && aligned);
    if (aligned) return;
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      if (!to.inside[i]) continue;
      to.value[i] = load_vector(x + offset[i], valid, false);
      if (to.adds) to.more[i] = load_vector(addend + offset[i], valid, false);
    }
  }

  __device__ void store(int slice, const Slice<T>& from, T* to) const {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(slice, i);
      Vector<T> result =
          from.inside[i] ? activate<T>(from.value[i], from.more[i], from.params, from.adds) : zero_vector<T>();
      if (at < box.rows * box.columns)
        store_vector(to + at * pitch + threadIdx.x % groups * kVector, result, kVector, true);
    }
  }
};

}  // namespace fi
