// Packs weights for the gathering kernels: [tap][k_padded][n_padded]. Each source's channels are padded with zeros to
// whole chunks along k and to eight along n. Vectors of eight n are written in one store.
//
// If the weight is contiguous, a block transposes a panel of it in shared memory. A panel's lines are channels of one
// side. Each line is a run of (channel of the other side, tap), read in vectors.
//
//   runs along k  16 n x 64 of (k, tap)                   a convolution's forward, a transposed one's dgrad
//   runs along n  one k x (groups of eight n, all taps)   the other two
//
// place(tap, k, n) is the destination of the vector that starts there. With k and n exchanged the same code writes
// vectors of eight k (hopper/fwd_dgrad_kernel.cuh).
#pragma once
#include "conv_block/cuda/kernels/params.cuh"

namespace fi {

enum class Runs { none, k, n };

struct PackSide {  // the channels of one side, in up to two parts
  int channels[2], padded[2];
  int64_t stride;
};

struct PackParams {
  int kernel[3];
  int64_t tap_stride[3];
  PackSide k, n;
  Groups group;
  bool k_in_group;  // groups: the weight counts k's channels within a group, and n's in all; else the reverse
  int columns;      // groups: of a column tile, whose k begin at group.first of its first column
  bool pairs;       // thin: k is (tap entry, channel of four of two neighbouring taps); see kernels/thin.cuh
  Runs runs;
  int lines, length;  // of a panel: channels, and elements per run
};

constexpr int kPanel = 1024;  // elements of a panel at most

// Shared memory of a panel. Lines are padded by eight elements, so that a column's elements are in different banks.
template <class T>
constexpr int pack_bytes() {
  return shared_part((kPanel + 16 * kVector) * int(sizeof(T)));
}

__host__ __device__ inline int padded(const PackSide& side) { return side.padded[0] + side.padded[1]; }

// Whether panels can be used, their shape, and the number of blocks.
inline int64_t choose_runs(PackParams& p, int taps, int k_padded) {
  int64_t next = 1;
  bool taps_in_order = !p.pairs && !p.group.n;
  for (int d = 2; d >= 0; next *= p.kernel[d--]) taps_in_order &= p.kernel[d] == 1 || p.tap_stride[d] == next;
  p.runs = !taps_in_order ? Runs::none : p.k.stride == taps ? Runs::k : p.n.stride == taps ? Runs::n : Runs::none;
  int64_t n_padded = padded(p.n), vectors = taps * k_padded * n_padded / kVector;
  if (p.runs == Runs::none) return std::min<int64_t>((vectors + kThreads - 1) / kThreads, 4096);
  p.lines = p.runs == Runs::k ? 16 : 1;
  p.length =
      p.runs == Runs::k ? 64 : taps * kVector * std::min(std::max(kPanel / kVector / taps, 1), padded(p.n) / kVector);
  int64_t lines = p.runs == Runs::k ? n_padded : k_padded, run = (p.runs == Runs::k ? k_padded : n_padded) * taps;
  return (lines + p.lines - 1) / p.lines * ((run + p.length - 1) / p.length);
}

// The channel of a padded index, or -1 in the padding.
__device__ inline int unpadded(const PackSide& side, int index) {
  int part = index >= side.padded[0];
  int channel = part ? index - side.padded[0] : index;
  return channel < side.channels[part] ? channel + (part ? side.channels[0] : 0) : -1;
}

// The value at padded k and n of a tap, zero in the padding and between groups.
template <class T>
__device__ __forceinline__ T packed_value(const T* weight, const PackParams& p, int tap, int k_index, int n_index) {
  bool grouped = p.group.n;
  int k = grouped ? p.group.first(n_index / p.columns * p.columns) + k_index : unpadded(p.k, k_index);
  int n = grouped ? n_index : unpadded(p.n, n_index);
  if (grouped && (k >= p.k.channels[0] || n >= p.n.channels[0] || k / p.group.k != n / p.group.n)) k = -1;
  if (k < 0 || n < 0) return from_float<T>(0.0f);
  if (grouped && p.k_in_group) k %= p.group.k;
  if (grouped && !p.k_in_group) n %= p.group.n;
  int w = tap % p.kernel[2], h = tap / p.kernel[2] % p.kernel[1], t = tap / p.kernel[2] / p.kernel[1];
  return weight[k * p.k.stride + n * p.n.stride + t * p.tap_stride[0] + h * p.tap_stride[1] + w * p.tap_stride[2]];
}

// For any strides and for the pairs of thin layers: a thread gathers the eight values of a vector one by one.
template <class T, class Place>
__device__ void pack_values(const Map<T>* weight, const PackParams& p, T* packed, int taps, int k_padded, Place place) {
  int groups = padded(p.n) / kVector;
  int64_t total = int64_t(taps) * k_padded * groups;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    int n = int(i % groups) * kVector, row = int(i / groups), tap = row / k_padded, k = row % k_padded;
    T* to = packed + place(tap, k, n);
    if (p.pairs) {
      int entries = ceil_div(p.kernel[2], 2), entry = row / kVector;  // along W, of all
      int w = entry % entries * 2 + row % kVector / 4, line = entry / entries;
      bool exists = line < p.kernel[0] * p.kernel[1] && w < p.kernel[2];
      tap = exists ? line * p.kernel[2] + w : 0;
      k = exists ? row % 4 : padded(p.k);
    }
    Vector<T> value;
#pragma unroll
    for (int j = 0; j < kVector; ++j) value.v[j] = from_float<T>(to_float(packed_value(weight, p, tap, k, n + j)));
    store_vector(to, value, kVector, true);
  }
}

// Eight elements of a run from element `at` on, in the padded (channel, tap) order of the run's side.
template <class T>
__device__ __forceinline__ Vector<T> load_run(const T* weight, const PackSide& lines, const PackSide& side, int taps,
                                              int line, int at) {
  int part = at >= side.padded[0] * taps, before = side.channels[0] * taps;
  at -= part ? side.padded[0] * taps : 0;
  int channel = unpadded(lines, line), valid = channel < 0 ? 0 : side.channels[part] * taps - at;
  bool aligned = valid >= kVector && is_aligned(weight) && lines.stride % kVector == 0 && before % kVector == 0;
  return load_vector(weight + channel * lines.stride + (part ? before : 0) + at, valid, aligned);
}

template <class T, class Place>
__device__ void pack_panel(const Map<T>* weight, const PackParams& p, T* packed, Map<T>* panel, int taps, Place place) {
  bool along_k = p.runs == Runs::k;
  const PackSide &lines = along_k ? p.n : p.k, &side = along_k ? p.k : p.n;
  int k_padded = padded(p.k), n_padded = padded(p.n), pitch = p.length + kVector;
  int in_run = p.length / kVector, panels = ceil_div(padded(side) * taps, p.length);
  int first_line = blockIdx.x / panels * p.lines, first = blockIdx.x % panels * p.length;
  for (int i = threadIdx.x; i < p.lines * in_run; i += kThreads) {
    int line = i / in_run, at = i % in_run * kVector;
    Vector<Map<T>> value = zero_vector<Map<T>>();
    if (first + at < padded(side) * taps) value = load_run(weight, lines, side, taps, first_line + line, first + at);
    store_vector(panel + line * pitch + at, value, kVector, true);
  }
  __syncthreads();
  int groups = along_k ? p.lines / kVector : in_run / taps;  // of eight n
  int n_step = along_k ? pitch : taps;                       // in the panel
  for (int i = threadIdx.x; i < p.lines * in_run; i += kThreads) {
    int group = i % groups, r = i / groups;  // r: of (k, tap), or the tap
    int k = along_k ? (first + r) / taps : first_line, tap = along_k ? (first + r) % taps : r;
    int n = (along_k ? first_line : first / taps) + group * kVector;
    if (k >= k_padded || n >= n_padded) continue;
    Vector<T> value;
#pragma unroll
    for (int j = 0; j < kVector; ++j) value.v[j] = from_float<T>(to_float(panel[(group * kVector + j) * n_step + r]));
    store_vector(packed + place(tap, k, n), value, kVector, true);
  }
}

template <class T, class Place>
__device__ void pack(const Map<T>* weight, const PackParams& p, T* packed, int taps, int k_padded, char* memory,
                     Place place) {
  if (p.runs == Runs::none) {
    pack_values(weight, p, packed, taps, k_padded, place);
    return;
  }
  SharedArena arena(memory, pack_bytes<T>());
  pack_panel(weight, p, packed, arena.take<Map<T>>(kPanel + 16 * kVector), taps, place);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const Map<T>* weight, const __grid_constant__ PackParams p, T* packed, int taps, int k_padded) {
  FI_DYNAMIC_SHARED(memory);
  int n_padded = padded(p.n);
  pack(weight, p, packed, taps, k_padded, memory,
       [&](int tap, int k, int n) { return (int64_t(tap) * k_padded + k) * n_padded + n; });
}

}  // namespace fi
