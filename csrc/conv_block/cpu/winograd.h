// Winograd convolutions on the CPU: the problem as tiles, and the kernels of each instruction set. See docs/cpu.md.
//
// Every convolution here, and every data gradient, is a sum of small stride-1 correlations with r taps a side, between
// sub-images (every step-th row and column) of two maps:
//
//     same   3x3, stride 1, padding = dilation d: one correlation of each of the d * d interleaved sub-images, r = 3
//     up     transposed 4x4 or 3x3, stride 2, padding 1: each of 4 output phases correlates the whole input, r = 2
//     down   4x4 or 3x3, stride 2, padding 1: the sum over 4 input phases of correlations, r = 2
//
// A tile of m x m outputs (m = 5 - r) reads 4 x 4 inputs and costs 16 multiplications a channel pair, one for each
// place of the transformed tile, instead of m * m * r * r: 2.25 times fewer. Places that a missing tap leaves zero cost
// nothing: of a 3x3 kernel with stride 2, whose phases have 1, 2, 2 and 4 taps, 49 of 64 are left. Where every
// sub-image of `same` is one tile with nothing but padding around it, 9 places do. Taps in time are summed in the
// transformed domain.
#pragma once

#include <cstdint>

#include "activation/cpu.h"
#include "common/cpu_isa.h"

namespace fi {

constexpr int kMaxBlocks = 32;  // 2x2 phases times the taps in time
constexpr int kMaxTimeTaps = kMaxBlocks / 4;

enum class Kind { same, up, down };

// How tiles are transformed: of 3x3 taps, of 2x2 taps, of 3x3 taps where a tile has only padding around it, or of 3x3
// taps with 4 x 4 outputs and 36 places.
enum class Tiling { three_taps, two_taps, alone, large };

// As the caller gives it: `in` is the map the correlation reads, `out` the one it writes.
struct ConvShape {
  int64_t batch, frames_in, height_in, width_in, frames_out, height_out, width_out;
  int64_t channels_in, channels_out;
  int64_t kind, kernel_t, kernel;  // kernel: taps a side, 3 or 4
  int64_t time_step, time_origin;  // output frame t reads input frames t + time_origin + kt * time_step
  int64_t dilation_h, dilation_w;
  int64_t flip;  // 1: taps in reverse order, for the data gradient of `same`
};

// A weight, or its gradient, by strides in values: in and out are the correlation's channels. Between bfloat16 maps it
// may be float32.
struct Taps {
  void* data;
  int64_t in, out, t, y, x;
  Dtype dtype;
};

// r x r taps: tap (i, j) is (kt, ky[i], kx[j]) of the weight; -1 stands for a tap the kernel does not have. The bit of a
// place in `live` tells whether the transformed weight has anything there.
struct Block {
  int kt, ky[3], kx[3];
  uint64_t live;

  bool lives(int place) const { return live >> place & 1; }
};

// One correlation: input row = first_y + residue + step * (m * tile_y + origin_y + i), i < 4; likewise columns.
struct Use {
  int block;
  int first_y, first_x, origin_y, origin_x;
  int frame;  // input frame minus output frame
};

// The outputs that share weights: output row = first_y + residue + step * (m * tile_y + i), i < m.
struct Group {
  int first_y, first_x;
  int uses;
  Use use[kMaxBlocks];
};

struct Form {
  ConvShape shape;
  Tiling tiling;
  int m, r;
  int places;  // of a transformed tile
  int residues_y, residues_x;  // sub-images a side
  int step_in_y, step_in_x, step_out_y, step_out_x;
  int tiles_y, tiles_x;  // of one sub-image
  int tiles_each;        // of a work item of the correlation
  int blocks, groups;
  Block block[kMaxBlocks];
  Group group[4];

  int64_t tiles() const {
    return shape.batch * shape.frames_out * residues_y * residues_x * static_cast<int64_t>(tiles_y) * tiles_x;
  }
};

// The form of the correlation, and that of the weight gradient: with larger tiles where they are exact enough and save
// time.
Form make_form(const ConvShape& shape, Dtype dtype);
Form make_weight_grad_form(const ConvShape& shape, Dtype dtype);

constexpr int kTiles = 28;         // most of one work item: smaller ones' transformed inputs stay in the second cache
constexpr int kPartChannels = 256;  // most output channels of an item: their results stay there too
constexpr int kDepth = 256;        // most input channels of one product
constexpr int kRow = kDepth + 16;  // floats between rows of transformed values; off a power of two for the caches

// What becomes of a correlation's result, for the channels of one output map.
struct Target {
  void* out;  // [pixels, channels], stored as the sources are: y; or, with `source`, dx
  int64_t channels;
  int64_t first;      // its first channel among the weight's
  const float* bias;  // [channels] or null
  double* sums;  // null, or [tile_blocks, 3, channels]: an offset, and the sums of y - offset and of its square; or,
                 // with `source`, [tile_blocks, 2, channels]: sum dz and sum dz * (x - mean)
  const Source* source;  // null, or the activation whose backward follows
  void* daddend;         // [pixels, channels] or null: the result itself
  bool past_caches;      // whether both maps are written so, as `leaves_caches` advises
};

// Where the gradients of one source go: dx is null where none is wanted, daddend may be. Those of the vectors are
// dmean = -scale * dshift, dscale = sum dz * (x - mean) and dshift = sum dz, of sources with a mean.
struct SourceGrads {
  void* dx;
  float *dmean, *dscale, *dshift;
  void* daddend;
};

// Whether a map of that many values is gone from the caches before anyone reads it, and lies where vectors can be
// written past them: its lines then need not be read first. No map, null, does not stand in the way.
bool leaves_caches(const void* map, int64_t values);

// out = correlation of the sources' activations. packed: weights by pack_weights. counts [tile_blocks]: their pixels.
struct Correlation {
  const Form* form;
  const Source* sources;
  int source_count;
  const Target* targets;
  int target_count;
  const void* packed;
  double* counts;

  int64_t chunks;  // of channels of all targets
  int64_t part;    // chunks of an item

  int64_t tile_blocks() const { return (form->tiles() + form->tiles_each - 1) / form->tiles_each * form->groups; }
  int64_t parts() const { return (chunks + part - 1) / part; }
  int64_t items() const { return tile_blocks() * parts(); }
};

// Most channels of an item of the weight gradient. Larger ones transform each tile fewer times: that is worth that the
// product, a megabyte, does not all stay in the second cache.
constexpr int64_t kChunkIn = 128, kChunkOut = 128;

// Gradient of the weight. product [splits, blocks, places, channels_in, channels_out]. An item sums one split of the tiles
// for one block and chunks of `chunk_in` and `chunk_out` channels.
struct WeightGrad {
  const Form* form;
  const Source* sources;
  int source_count;
  Source upstream;
  float* product;
  int64_t splits;
  int64_t chunk_in, chunk_out;
  int64_t pieces_in, pieces_out;  // of all sources together; of channels_out

  int64_t items() const { return splits * form->blocks * pieces_in * pieces_out; }
  // Of one place. The last term spreads the places of a row over the sets of the caches.
  int64_t place_size() const { return form->shape.channels_in * form->shape.channels_out + 16; }
  int64_t block_size() const { return form->places * place_size(); }
  int64_t split_size() const { return form->blocks * block_size(); }
};

// Memory of the calling thread, kept between calls and grown as needed: fresh pages are slow to touch. `weights` holds
// packed weights, or their gradients, for a whole call, `product` gradients beside packed weights, `tiles` the
// transformed tiles of one item, `results` its results.
enum class Scratch { weights, product, tiles, results };
float* scratch(Scratch which, int64_t floats);

// A chunk of output channels is as wide as a register block; a weight is packed [blocks, places, chunks, channels_in,
// chunk].
FI_DECLARE_EACH_ISA(void chunk_channels(int64_t* channels))
FI_DECLARE_EACH_ISA(void pack_weights(const Correlation&, const Taps&, int64_t item, void* packed))
FI_DECLARE_EACH_ISA(void correlate(const Correlation&, int64_t item))
FI_DECLARE_EACH_ISA(void weight_grad(const WeightGrad&, int64_t item))
FI_DECLARE_EACH_ISA(void unpack_weight_grad(const WeightGrad&, const Taps&, int64_t item))
// The same for bfloat16 maps. What is transformed is rounded to bfloat16 once more, sums are float.
FI_DECLARE_BF16(void chunk_channels_bf16(int64_t* channels))
FI_DECLARE_BF16(void pack_weights_bf16(const Correlation&, const Taps&, int64_t item, void* packed))
FI_DECLARE_BF16(void correlate_bf16(const Correlation&, int64_t item))
FI_DECLARE_BF16(void weight_grad_bf16(const WeightGrad&, int64_t item))
FI_DECLARE_BF16(void unpack_weight_grad_bf16(const WeightGrad&, const Taps&, int64_t item))

}  // namespace fi

// What `layer.cpp` calls: see the definitions.
FI_EXPORT int fi_cpu_winograd_fwd(const fi::ConvShape* shape, const fi::Source* sources, int count, const void* weight,
                                  const int64_t* strides, const float* bias, void* y, float* mean, float* var,
                                  int dtype, int weight_dtype, int threads);
FI_EXPORT int fi_cpu_winograd_dgrad(const fi::ConvShape* shape, const fi::Source* upstream, const void* weight,
                                    const int64_t* strides, const fi::Source* sources, int count,
                                    const fi::SourceGrads* grads, int dtype, int weight_dtype, int threads);
FI_EXPORT int fi_cpu_winograd_wgrad(const fi::ConvShape* shape, const fi::Source* sources, int count,
                                    const fi::Source* upstream, void* dweight, const int64_t* strides, int dtype,
                                    int weight_dtype, int threads);
