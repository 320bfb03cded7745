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

// Transforms the results of one vector of channels back and hands every pixel inside the map to the epilogue.
template <class T, class Epilogue>
void finish_channels(const float* results, const Patch* outputs, int64_t count, Epilogue& epilogue) {
  for (int64_t tile = 0; tile < count; ++tile) {
    const Patch& p = outputs[tile];
    transform_results(T{}, results + tile * kChunk, [&](int i, int j, vfloat v) {
      if (p.pixel[i][j] >= 0) epilogue(p.pixel[i][j], v);
    });
  }
}

template <class T, class Epilogue>
void finish_chunk(const Target& target, int64_t c, int64_t width, const float* results, const Patch* outputs,
                  int64_t count, int64_t block) {
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Epilogue epilogue(target, c + lane);
    finish_channels<T>(results + lane, outputs, count, epilogue);
    if (target.sums) epilogue.finish(target.sums + block * Epilogue::count * target.channels + c + lane);
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

template <class S, class T>
void transform(const Source& source, int64_t first, int64_t depth, const TilesOf<kPatchSide<T>>& tiles, S* values) {
  with_reader<S>(source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    for (int64_t i = 0; i < tiles.count; ++i) {
      const Places<S, kSlab<S>> to{values + i * kRowOf<S>};
      if (i + 1 < tiles.count && tiles.live[i + 1]) {
        prefetch<S, kPatchSide<T>>(source, first, depth, tiles.input[i + 1]);
      }
      if (!tiles.live[i]) {
        for (int place = 0; place < kPlaces<T>; ++place)
          for (int64_t c = 0; c < depth; c += kLanes) to(place, c, vfloat{});
      } else if (tiles.input[i].inside) {
        transform_input<T, R, true>(source, first, depth, tiles.input[i], to);
      } else {
        transform_input<T, R, false>(source, first, depth, tiles.input[i], to);
      }
    }
  });
}

// One value of each term: the only one, or one of a pair.
FI_INLINE void put_term(float* to, vfloat v, bool) { store(to, v); }
FI_INLINE void put_term(float* to, vdouble v, bool) { store_rounded(to, v); }
FI_INLINE void put_term(Pair* to, vfloat v, bool second) { second ? store_second(to, v) : store_first(to, v); }

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

// Terms summed in a row. Larger tiles multiply the rounding of sums, and stock torch sums few channels more exactly.
template <class S, class T>
int64_t chain_of(int64_t channels) {
  constexpr int64_t most = kChainOf<Term<S>>;
  return T::side <= 4 || channels / 4 >= most ? most : channels / 4;
}

// The row of packed weights of one place of a block, at input channel k for a chunk of output channels.
template <class T>
int64_t packed_row(const Correlation& args, int64_t block, int place, int64_t chunk, int64_t k) {
  return ((block * kPlaces<T> + place) * args.chunks + chunk) * args.form->shape.channels_in + k;
}

template <class S, class T>
void correlate_tiles(const Correlation& args, int64_t item) {
  constexpr int places = kPlaces<T>, kStep = kValues<S>;
  const Form& form = *args.form;
  const int64_t block = item / args.parts(), blocks = args.tile_blocks() / form.groups;
  const int64_t first_chunk = item % args.parts() * args.part;
  const int64_t last_chunk = first_chunk + args.part < args.chunks ? first_chunk + args.part : args.chunks;
  const Group& group = form.group[block / blocks];
  TilesOf<kPatchSide<T>> tiles(form, group, block % blocks * form.tiles_each);
  if (args.counts && first_chunk == 0) args.counts[block] = tiles.pixels(form.m);

  constexpr int64_t kResults = kPart * places * kResultSlab;
  float* results = scratch(Scratch::tiles, places * kSlab<S> * sizeof(S) / sizeof(float) + kResults);
  S* values = reinterpret_cast<S*>(results + kResults);
  const auto* terms = reinterpret_cast<const Term<S>*>(values);
  const auto* packed = static_cast<const Term<S>*>(args.packed);
  auto result = [&](int64_t chunk) { return results + (chunk - first_chunk) * places * kResultSlab; };
  const int64_t chain = chain_of<S, T>(form.shape.channels_in);
  uint64_t started = 0;  // places with a result
  for (int u = 0; u < group.uses; ++u) {
    if (!tiles.find_inputs(form, group.use[u])) continue;
    const int64_t number = group.use[u].block;
    int64_t k = 0;
    for (int s = 0; s < args.source_count; ++s) {
      const Source& source = args.sources[s];
      for (int64_t c = 0; c < source.channels; c += kDepth) {
        const int64_t depth = source.channels - c < kDepth ? source.channels - c : kDepth;
        transform<S, T>(source, c, depth, tiles, values);
        for (int place = 0; place < places; ++place) {
          if (!form.block[number].lives(place)) continue;
          for_chunks(args, first_chunk, last_chunk, [&](const Target&, int64_t, int64_t width, int64_t chunk) {
            product<kRowOf<S> / kStep, 1, kChunk>(
                terms + place * (kSlab<S> / kStep),
                packed + packed_row<T>(args, number, place, chunk, k) / kStep * kChunk, depth / kStep,
                result(chunk) + place * kResultSlab, kChunk, started >> place & 1, tiles.count, width > kLanes, chain);
          });
        }
        started |= form.block[number].live;
        k += depth;
      }
    }
  }
  for (int64_t slab = 0; slab < (last_chunk - first_chunk) * places; ++slab) {
    if (!(started >> slab % places & 1)) std::memset(results + slab * kResultSlab, 0, kResultSlab * sizeof(float));
  }
  for_chunks(args, first_chunk, last_chunk, [&](const Target& target, int64_t c, int64_t width, int64_t chunk) {
    if (target.source) {
      finish_chunk<T, ActivationGrad<S>>(target, c, width, result(chunk), tiles.output, tiles.count, block);
    } else {
      finish_chunk<T, StoreWithStats<S>>(target, c, width, result(chunk), tiles.output, tiles.count, block);
    }
  });
  end_stream();
}

template <class S>
void correlate_item(const Correlation& args, int64_t item) {
  with_any_tiling<S>(*args.form, [&](auto tiling) { correlate_tiles<S, decltype(tiling)>(args, item); });
}

// out(place, lane, (G w G^T)[place]) for the taps of one input channel.
template <class T, class Out>
FI_INLINE void transform_taps(T, const PackTaps& taps, int k, const Out& out) {
  for (int lane = 0; lane < kChunk; lane += kLanes) {
    auto column = [&](int j) {
      return T::weight({load(taps[0][j][k] + lane), load(taps[1][j][k] + lane),
                        T::r == 3 ? load(taps[2][j][k] + lane) : vfloat{}, vfloat{}});
    };
    const Quad c0 = column(0), c1 = column(1), c2 = T::r == 3 ? column(2) : Quad{};
    for (int i = 0; i < T::side; ++i) put_row<T::side>(out, 4 * i, lane, T::weight(row(c0, c1, c2, Quad{}, i)));
  }
}
template <class Out>
FI_INLINE void transform_taps(Large, const PackTaps& taps, int k, const Out& out) {
  for (int lane = 0; lane < kChunk; lane += kLanes / 2) {
    transform_square<3, 6>([&](int i, int j) { return load_double(taps[i][j][k] + lane); },
                           [](const SixOf<vdouble>& w) { return Large::weight(w); },
                           [&](int i, int j, vdouble v) { out(6 * i + j, lane, v); });
  }
}

// item = block * chunks + chunk: packs G w G^T of it, for each place as [terms of channels_in, kChunk]; lanes past a
// target's end are zero.
template <class S, class W>
void pack_item(const Correlation& args, const Taps& w, int64_t item, Term<S>* packed) {
  const Form& form = *args.form;
  int64_t first = 0, width = 0;
  const int64_t chunk = item % args.chunks, block = item / args.chunks;
  for_chunks(args, chunk, chunk + 1, [&](const Target& target, int64_t c, int64_t own_width, int64_t) {
    first = target.first + c;
    width = own_width;
  });
  const int64_t place = args.chunks * form.shape.channels_in / kValues<S> * kChunk;
  alignas(64) PackTaps taps = {};
  with_any_tiling<S>(form, [&](auto tiling) {
    using T = decltype(tiling);
    Term<S>* out = packed + packed_row<T>(args, block, 0, chunk, 0) / kValues<S> * kChunk;
    for (int64_t k0 = 0; k0 < form.shape.channels_in; k0 += kPackRows) {
      read_taps<W>(form, form.block[block], w, k0, first, width, taps);
      for (int k = 0; k < kPackRows; ++k, out += k % kValues<S> ? 0 : kChunk) {
        transform_taps(tiling, taps, k, [&](int at, int64_t c, auto v) { put_term(out + at * place + c, v, k % 2); });
      }
    }
  });
}

}  // namespace
}  // namespace fi::FI_ISA
