// From global to shared memory through registers: a box of positions, each value activated on the way.
#pragma once
#include "conv_block/cuda/kernels/tile.cuh"

namespace fi {

constexpr int kSliceVectors = 2;  // that a thread loads in one slice: enough to hide a load behind a step's products

// A box of positions of one plane, the positions that some taps read for one tile.
struct PatchShape {
  int rows, columns;
  int step_h, step_w;  // between its positions in the input: the convolution's along an axis where the taps agree, or 1
  int tile_h, tile_w;  // between the positions of the box that neighbouring positions of the tile read
  uint32_t inverse;    // 2^20 / columns rounded up: position * inverse >> 20 is its row
};

// The box of a tile_h x tile_w tile and taps whose offsets span that much, under the convolution's steps.
__host__ __device__ inline PatchShape make_box(int tile_h, int tile_w, int span_h, int span_w, const int* step) {
  int step_h = span_h ? 1 : step[1], step_w = span_w ? 1 : step[2];
  PatchShape box{0, 0, step_h, step_w, step[1] / step_h, step[2] / step_w, 0};
  box.rows = (tile_h - 1) * box.tile_h + span_h + 1;
  box.columns = (tile_w - 1) * box.tile_w + span_w + 1;
  box.inverse = ((1u << 20) + box.columns - 1) / box.columns;
  return box;
}

// The position of the box that row m of the tile reads; a tile's rows are 1 << tile_bits long.
__device__ __forceinline__ int box_position(const PatchShape& box, int tile_bits, int m) {
  return (m >> tile_bits) * box.tile_h * box.columns + (m & ((1 << tile_bits) - 1)) * box.tile_w;
}

// What a thread holds of a slice between reading and storing it, with its channels' parameters. Loaders whose slices
// follow one another share one, since there are no registers for two.
template <class T>
struct Slice {
  ChannelParams params;
  bool relu;
  Vector<Map<T>> value[kSliceVectors], more[kSliceVectors];
  bool inside[kSliceVectors];

  __device__ void set_params(const Source& source, int channel) {
    params = load_params(source, channel);
    relu = source.relu;
  }
};

// Loads a box slice by slice: load() reads, store() activates and writes to shared memory, `pitch` values a position.
// A thread keeps one of the `groups` vectors of a position, so its channels' parameters stay in registers.
template <class T, int groups, int pitch = fi::pitch<T>(groups * kVector)>
struct BoxLoader {
  PatchShape box;
  const Map<T>*x, *addend;  // of the plane, at the thread's channels; x null outside the input
  int height, width, h, w;  // of the plane; first position of the box
  int channels, channel, valid;
  bool aligned;

  __device__ BoxLoader(const PatchShape& box_, const int* size) : box(box_), height(size[1]), width(size[2]) {}

  __device__ int slices() const { return ceil_div(box.rows * box.columns * groups, kSliceVectors * kThreads); }

  // The source's channels from first_channel on.
  __device__ void set_channels(const Source& source, int first_channel) {
    channel = first_channel + threadIdx.x % groups * kVector;
    channels = source.channels;
    valid = max(0, min(kVector, channels - channel));
    aligned = vectors_aligned(source);
  }

  // The box that begins at (first_h, first_w) of a plane, which is negative outside the input.
  __device__ void set_origin(const Source& source, int64_t plane, int first_h, int first_w) {
    h = first_h, w = first_w;
    int64_t offset = plane * height * width * channels + channel;
    x = plane < 0 ? nullptr : static_cast<const Map<T>*>(source.x) + offset;
    addend = source.addend ? static_cast<const Map<T>*>(source.addend) + offset : nullptr;
  }

  __device__ int position(int slice, int i) const {
    return ((slice * kSliceVectors + i) * kThreads + threadIdx.x) / groups;
  }

  __device__ void load(int slice, Slice<T>& to) const {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(slice, i), row = at * box.inverse >> 20;
      int y = h + row * box.step_h, z = w + (at - row * box.columns) * box.step_w;
      to.inside[i] =
          row < box.rows && valid > 0 && x && unsigned(y) < unsigned(height) && unsigned(z) < unsigned(width);
      to.value[i] = to.more[i] = zero_vector<Map<T>>();
      if (!to.inside[i]) continue;
      int64_t offset = int64_t(y * width + z) * channels;
      to.value[i] = load_vector(x + offset, valid, aligned);
      if (addend) to.more[i] = load_vector(addend + offset, valid, aligned);
    }
  }

  __device__ void store(int slice, const Slice<T>& from, T* to) const {
#pragma unroll
    for (int i = 0; i < kSliceVectors; ++i) {
      int at = position(slice, i);
      if (at >= box.rows * box.columns) continue;
      Vector<T> result =
          from.inside[i] ? activate<T>(from.value[i], from.more[i], from.params, from.relu) : zero_vector<T>();
      if (valid < kVector)
        for (int j = 0; j < kVector; ++j)
          if (j >= valid) result.v[j] = from_float<T>(0.0f);
      store_vector(to + at * pitch + threadIdx.x % groups * kVector, result, kVector, true);
    }
  }
};

}  // namespace fi
