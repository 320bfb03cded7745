// The correlation of winograd.h: forward, and data gradient with the activation's backward as its epilogue.
//
// One work item is kTiles tiles of one group and all output channels: their inputs are read with the sources' batch
// norm, ReLU and addends applied, transformed, multiplied by the packed weights, transformed back and finished.
#pragma once

#include <cstring>

#include "conv_block/cpu/epilogue.h"
#include "conv_block/cpu/product.h"
#include "conv_block/cpu/winograd_large.h"

namespace fi::FI_ISA {
namespace {

// Values between rows of transformed inputs, off a power of two for the caches, and those of one place. The places of a
// tile fall on different sets of the first cache.
template <class S>
constexpr int kRowOf = kDepth + 64 / sizeof(S);
template <class S>
constexpr int64_t kSlab = kTiles * kRowOf<S> + 64 / sizeof(S);
constexpr int64_t kResultSlab = kTiles * kChunk;  // results of one place for one chunk of channels

// out(i, j, y[i, j]) for the outputs of a tile, whose results are kResultSlab apart.
template <class T, class Out>
FI_INLINE void transform_results(T, const float* results, const Out& out) {
  auto column = [&](int j) {
    return T::output({load(results + j * kResultSlab), load(results + (4 + j) * kResultSlab),
                      load(results + (8 + j) * kResultSlab), load(results + (12 + j) * kResultSlab)});
  };
  const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
  for (int i = 0; i < T::m; ++i) {
    const Quad y = T::output(row(c0, c1, c2, c3, i));
    out(i, 0, y.a);
    out(i, 1, y.b);
    if (T::m == 3) out(i, 2, y.c);
  }
}

// Through memory: sixteen epilogues in a row would keep their sums there.
template <class Out>
FI_INLINE void transform_results(Large, const float* results, const Out& out) {
  alignas(64) float y[16][kLanes];
  transform_square<6, 4>([&](int i, int j) { return load(results + (6 * i + j) * kResultSlab); },
                         [](const Six& v) { return Large::output(v); },
                         [&](int i, int j, vfloat v) { store(y[4 * i + j], v); });
  for (int i = 0; i < 16; ++i) out(i / 4, i % 4, load(y[i]));
}

// Transforms the results of one vector of channels back and hands every pixel inside the map to the epilogue. What goes
// past the caches in lines waits for the other vector in place of the tile's first results.
template <class T, class Epilogue>
void finish_channels(float* results, const Patch* outputs, int64_t count, Epilogue& epilogue) {
  for (int64_t tile = 0; tile < count; ++tile) {
    const Patch& p = outputs[tile];
    transform_results(T{}, results + tile * kChunk, [&](int i, int j, vfloat v) {
      if (p.pixel[i][j] >= 0) epilogue(p.pixel[i][j], v, results + (T::m * i + j) * kResultSlab + tile * kChunk);
    });
  }
}

template <class T, class Epilogue>
void finish_chunk(const Target& target, int64_t c, int64_t width, float* results, const Patch* outputs,
                  int64_t count, int64_t block) {
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Epilogue epilogue(target, c + lane);
    finish_channels<T>(results + lane, outputs, count, epilogue);
    if (target.sums) epilogue.finish(target.sums + block * Epilogue::count * target.channels + c + lane);
  }
  if (kLineVectors == 1 || !target.past_caches) return;
  for (int64_t tile = 0; tile < count; ++tile) {
    for (int i = 0; i < T::m * T::m; ++i) {
      const int64_t pixel = outputs[tile].pixel[i / T::m][i % T::m];
      float* to = static_cast<float*>(target.out) + pixel * target.channels + c;
      if (pixel >= 0) stream_line(to, results + i * kResultSlab + tile * kChunk);
    }
  }
}

// Calls f(target, first channel, width, chunk number) for the chunks [begin, end) of output channels.
template <class F>
void for_chunks(const Correlation& args, int64_t begin, int64_t end, F f) {
  int64_t chunk = 0;
  for (int i = 0; i < args.target_count; ++i) {
    const int64_t channels = args.targets[i].channels;
    for (int64_t c = 0; c < channels; c += kChunk, ++chunk) {
      if (chunk < begin || chunk >= end) continue;
      f(args.targets[i], c, channels - c < kChunk ? channels - c : kChunk, chunk);
    }
  }
}

// The tiles of one item, where their outputs lie and, for the use at hand, their inputs.
template <int SIDE>
struct TilesOf {
  int64_t count;
  Tile tile[kTiles];
  Patch output[kTiles];
  PatchOf<SIDE> input[kTiles];
  bool live[kTiles];  // the input's frame is one of the video's

  TilesOf(const Form& form, const Group& group, int64_t begin)
      : count(form.tiles() - begin < form.tiles_each ? form.tiles() - begin : form.tiles_each) {
    for (int64_t i = 0; i < count; ++i) {
      tile[i] = tile_at(form, begin + i);
      output[i] = output_patch(form, group, tile[i]);
    }
  }
  double pixels(int m) const {
    double inside = 0;
    for (int64_t i = 0; i < count; ++i)
      for (int j = 0; j < m * m; ++j) inside += output[i].pixel[j / m][j % m] >= 0;
    return inside;
  }
  bool find_inputs(const Form& form, const Use& use) {
    bool any = false;
    for (int64_t i = 0; i < count; ++i) any |= live[i] = input_patch(form, use, tile[i], input[i]);
    return any;
  }
};
using Tiles = TilesOf<4>;

constexpr int kPackRows = 16;  // input channels packed at a time: a cache line where they lie side by side
using PackTaps = float[3][3][kPackRows][kChunk];

// taps[i][j][k][n] = the weight's, for `width` output channels n from `first` on and input channels k from k0 on. What
// lies side by side in the weight is read together: else, at strides of a power of two, the caches keep none of it.
template <class W>
void read_taps(const Form& form, const Block& block, const Taps& w, int64_t k0, int64_t first, int64_t width,
               PackTaps& taps) {
  const W* corner = static_cast<const W*>(w.data) + k0 * w.in + first * w.out + block.kt * w.t;
  const int64_t outer = w.out == 1 ? 1 : width;  // output channels read one by one, or all at once
  for (int64_t n = 0; n < outer; ++n) {
    for (int i = 0; i < form.r; ++i) {
      for (int j = 0; j < form.r; ++j) {
        if (block.ky[i] < 0 || block.kx[j] < 0) continue;
        const W* from = corner + n * w.out + block.ky[i] * w.y + block.kx[j] * w.x;
        for (int k = 0; k < kPackRows; ++k, from += w.in) {
          if (w.out == 1) {
            for (int64_t lane = 0; lane < width; lane += kLanes) store(taps[i][j][k] + lane, load(from + lane));
          } else {
            taps[i][j][k][n] = to_float(*from);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fi::FI_ISA
