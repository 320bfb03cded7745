// `correlate` between bfloat16 maps: what surrounds the products of correlate.h. For simd_bf16*.cpp.
#pragma once

#include "conv_block/cpu/amx.h"
#include "conv_block/cpu/folded_reader.h"
#include "conv_block/cpu/pack_pairs.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kPairRow = kRowOf<Bf16>, kPairSlab = kSlab<Bf16>;  // values

// y = result + bias and, where wanted, sums of what exceeds the item's first value, of the stored values. Sums of one
// tile are float: they round far less than bfloat16 does.
struct StoreTiles {
  Bf16* out;
  int64_t channels;
  vfloat bias{}, first{}, tile_sum{}, tile_squares{};
  Halves sum, squares;
  bool moments, any = false;

  StoreTiles(const Target& t, int64_t c) : out(static_cast<Bf16*>(t.out) + c), channels(t.channels), moments(t.sums) {
    if (t.bias) bias = load(t.bias + c);
  }
  FI_INLINE void operator()(int64_t pixel, vfloat v) {
    const vfloat y = v + bias;
    store(out + pixel * channels, y);
    if (!moments) return;
    const vfloat kept = stored(out, y);
    if (!any) first = kept;
    any = true;
    const vfloat d = kept - first;
    tile_sum += d;
    tile_squares += d * d;
  }
  FI_INLINE void end_tile() {
    if (!moments) return;
    add(sum, tile_sum);
    add(squares, tile_squares);
    tile_sum = tile_squares = vfloat{};
  }
  static constexpr int count = 3;
  void finish(double* sums) const {
    store_sums(sums, halves(first), kLanes);
    store_sums(sums + channels, sum, kLanes);
    store_sums(sums + 2 * channels, squares, kLanes);
  }
};

// The activation's backward: dz = da * 1[z > 0], dx = dz * scale, and the sums of dz and dz * (x - mean).
struct GradTiles {
  const Bf16* x;
  Bf16 *out, *daddend;
  int64_t channels;
  bool affine, clamp;
  vfloat mean{}, scale{}, shift{}, tile_dz{}, tile_dz_x{};
  Halves sum_dz, sum_dz_x;

  GradTiles(const Target& t, int64_t c)
      : x(static_cast<const Bf16*>(t.source->x) + c),
        out(static_cast<Bf16*>(t.out) + c),
        daddend(t.daddend ? static_cast<Bf16*>(t.daddend) + c : nullptr),
        channels(t.channels),
        affine(t.source->mean),
        clamp(t.source->relu) {
    if (!affine) return;
    mean = load(static_cast<const float*>(t.source->mean) + c);
    scale = load(static_cast<const float*>(t.source->scale) + c);
    shift = load(static_cast<const float*>(t.source->shift) + c) - mean * scale;  // as FoldedReader
  }
  FI_INLINE void operator()(int64_t pixel, vfloat dz) {
    const int64_t at = pixel * channels;
    if (daddend) store(daddend + at, dz);
    if (affine || clamp) {
      const vfloat xv = load(x + at);
      if (clamp) dz = gate(affine ? xv * scale + shift : xv, dz);
      tile_dz += dz;
      tile_dz_x += dz * (xv - mean);
    }
    store(out + at, affine ? dz * scale : dz);
  }
  FI_INLINE void end_tile() {
    if (!affine) return;
    add(sum_dz, tile_dz);
    add(sum_dz_x, tile_dz_x);
    tile_dz = tile_dz_x = vfloat{};
  }
  static constexpr int count = 2;
  void finish(double* sums) const {
    store_sums(sums, sum_dz, kLanes);
    store_sums(sums + channels, sum_dz_x, kLanes);
  }
};

// As `finish_channels`, with the end of each tile told.
template <class T, class Epilogue>
void finish_tiles(const float* results, const Patch* outputs, int64_t count, Epilogue& kept) {
  Epilogue epilogue = kept;  // its sums stay in registers
  for (int64_t tile = 0; tile < count; ++tile) {
    const float* place = results + tile * kChunk;
    auto column = [&](int j) {
      return T::output({load(place + j * kResultSlab), load(place + (4 + j) * kResultSlab),
                        load(place + (8 + j) * kResultSlab), load(place + (12 + j) * kResultSlab)});
    };
    const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
    const Patch& p = outputs[tile];
    for (int i = 0; i < T::m; ++i) {
      const Quad y = T::output(row(c0, c1, c2, c3, i));
      if (p.pixel[i][0] >= 0) epilogue(p.pixel[i][0], y.a);
      if (p.pixel[i][1] >= 0) epilogue(p.pixel[i][1], y.b);
      if (T::m == 3 && p.pixel[i][2] >= 0) epilogue(p.pixel[i][2], y.c);
    }
    epilogue.end_tile();
  }
  kept = epilogue;
}

template <class Epilogue>
void finish_pairs(const Form& form, const Target& target, int64_t c, int64_t width, const float* results,
                  const Tiles& tiles, int64_t block) {
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Epilogue epilogue(target, c + lane);
    with_tiling(form, [&](auto tiling) {
      finish_tiles<decltype(tiling)>(results + lane, tiles.output, tiles.count, epilogue);
    });
    if (target.sums) epilogue.finish(target.sums + block * Epilogue::count * target.channels + c + lane);
  }
}

// As `transform_input`, of the places of one tile.
template <class T, bool INSIDE, class R>
void transform_tile(const Source& source, int64_t first, int64_t depth, const Offsets& from, Bf16* to) {
  const Places<Bf16, kPairSlab> out{to};
  for (int64_t c = 0; c < depth; c += kLanes) {
    const R read(source, first + c);
    auto column = [&](int j) {
      return T::input({read.template at<INSIDE>(from.at[0][j]), read.template at<INSIDE>(from.at[1][j]),
                       read.template at<INSIDE>(from.at[2][j]), read.template at<INSIDE>(from.at[3][j])});
    };
    const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
    for (int i = 0; i < T::side; ++i) put_row<T::side>(out, 4 * i, c, T::input(row(c0, c1, c2, c3, i)));
  }
}

template <class T>
void transform_tiles(const Source& source, int64_t first, int64_t depth, const Tiles& tiles, Bf16* values) {
  with_folded_reader(source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    for (int64_t i = 0; i < tiles.count; ++i, values += kPairRow) {
      if (i + 1 < tiles.count && tiles.live[i + 1]) prefetch<Bf16, 4>(source, first, depth, tiles.input[i + 1]);
      if (!tiles.live[i]) {
        for (int place = 0; place < 16; ++place) std::memset(values + place * kPairSlab, 0, depth * sizeof(Bf16));
        continue;
      }
      const Offsets from(tiles.input[i], source.channels, 4);
      const bool inside = kMayBeInside<T> && from.inside;
      inside ? transform_tile<T, true, R>(source, first, depth, from, values)
             : transform_tile<T, false, R>(source, first, depth, from, values);
    }
  });
}

// As `correlate`.
void correlate_pairs_item(const Correlation& args, int64_t item) {
  const Form& form = *args.form;
  const int64_t block = item / args.parts(), blocks = args.tile_blocks() / form.groups;
  const int64_t first_chunk = item % args.parts() * args.part;
  const int64_t last_chunk = first_chunk + args.part < args.chunks ? first_chunk + args.part : args.chunks;
  const Group& group = form.group[block / blocks];
  Tiles tiles(form, group, block % blocks * kTiles);
  if (args.counts && first_chunk == 0) args.counts[block] = tiles.pixels(form.m);

  float* results = scratch(Scratch::tiles, 8 * kPairSlab + kPartChannels / kChunk * 16 * kResultSlab);
  auto* values = reinterpret_cast<Bf16*>(results + kPartChannels / kChunk * 16 * kResultSlab);
  const auto* pairs = reinterpret_cast<const Pair*>(values);
  const auto* packed = static_cast<const Pair*>(args.packed);
  auto result = [&](int64_t chunk) { return results + (chunk - first_chunk) * 16 * kResultSlab; };
  const MultiplyByAmx by_amx = amx();
  uint64_t started = 0;  // places with a result
  for (int u = 0; u < group.uses; ++u) {
    if (!tiles.find_inputs(form, group.use[u])) continue;
    const Block& taps = form.block[group.use[u].block];
    int64_t k = 0;
    for (int s = 0; s < args.source_count; ++s) {
      const Source& source = args.sources[s];
      for (int64_t c = 0; c < source.channels; c += kDepth) {
        const int64_t depth = source.channels - c < kDepth ? source.channels - c : kDepth;
        with_tiling(form, [&](auto tiling) { transform_tiles<decltype(tiling)>(source, c, depth, tiles, values); });
        for_chunks(args, first_chunk, last_chunk, [&](const Target&, int64_t, int64_t width, int64_t chunk) {
          for (int place = 0; place < 16; ++place) {
            if (!taps.lives(place)) continue;
            const int64_t panel = (group.use[u].block * args.chunks + chunk) * 16 + place;
            const Pair *a = pairs + place * (kPairSlab / 2),
                       *b = packed + (panel * form.shape.channels_in + k) / 2 * kChunk;
            float* to = result(chunk) + place * kResultSlab;
            const bool add = started >> place & 1;
            if (by_amx) {
              by_amx({&a->bits, &b->bits, to, kPairRow / 2, 1, kChunk, kChunk, tiles.count, width, depth / 2, add});
              continue;
            }
            product<kPairRow / 2, 1, kChunk>(a, b, depth / 2, to, kChunk, add, tiles.count, width > kLanes);
          }
        });
        started |= taps.live;
        k += depth;
      }
    }
  }
  for (int64_t slab = 0; slab < (last_chunk - first_chunk) * 16; ++slab) {
    if (!(started >> slab % 16 & 1)) std::memset(results + slab * kResultSlab, 0, kResultSlab * sizeof(float));
  }
  for_chunks(args, first_chunk, last_chunk, [&](const Target& target, int64_t c, int64_t width, int64_t chunk) {
    target.source ? finish_pairs<GradTiles>(form, target, c, width, result(chunk), tiles, block)
                  : finish_pairs<StoreTiles>(form, target, c, width, result(chunk), tiles, block);
  });
}

}  // namespace
}  // namespace fi::FI_ISA
