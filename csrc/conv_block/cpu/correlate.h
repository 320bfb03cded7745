// The correlation of winograd.h: forward, and data gradient with the activation's backward as its epilogue.
//
// One work item is kTiles tiles of one group and all output channels: their inputs are read with the sources' batch
// norm, ReLU and addends applied, transformed, multiplied by the packed weights, transformed back and finished.
#pragma once

#include <cstring>

#include "conv_block/cpu/epilogue.h"
#include "conv_block/cpu/product.h"
#include "conv_block/cpu/tiles.h"

namespace fi::FI_ISA {
namespace {

// Values between rows of transformed inputs, off a power of two for the caches, and those of one of the 16 places.
template <class S>
constexpr int kRowOf = kDepth + 64 / sizeof(S);
template <class S>
constexpr int64_t kSlab = kTiles * kRowOf<S>;
constexpr int64_t kResultSlab = kTiles * kChunk;  // results of one of the 16 places for one chunk of channels

// Transforms the results of one vector of channels back and hands every pixel inside the map to the epilogue.
template <class T, class Epilogue>
void finish_channels(const float* results, const Patch* outputs, int64_t count, Epilogue& epilogue) {
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
  }
}

template <class Epilogue>
void finish_chunk(const Form& form, const Target& target, int64_t c, int64_t width, const float* results,
                  const Patch* outputs, int64_t count, int64_t block) {
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Epilogue epilogue(target, c + lane);
    with_tiling(form,
                [&](auto tiling) { finish_channels<decltype(tiling)>(results + lane, outputs, count, epilogue); });
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
struct Tiles {
  int64_t count;
  Tile tile[kTiles];
  Patch output[kTiles], input[kTiles];
  bool live[kTiles];  // the input's frame is one of the video's

  Tiles(const Form& form, const Group& group, int64_t begin)
      : count(form.tiles() - begin < kTiles ? form.tiles() - begin : kTiles) {
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

template <class S, class T>
void transform(const Source& source, int64_t first, int64_t depth, const Tiles& tiles, S* values) {
  with_reader<S>(source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    for (int64_t i = 0; i < tiles.count; ++i) {
      const Places<S, kSlab<S>> to{values + i * kRowOf<S>};
      if (i + 1 < tiles.count && tiles.live[i + 1]) prefetch<S, 4>(source, first, depth, tiles.input[i + 1]);
      if (!tiles.live[i]) {
        for (int place = 0; place < 16; ++place)
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

template <class S>
void correlate_item(const Correlation& args, int64_t item) {
  const Form& form = *args.form;
  const int64_t block = item / args.parts(), blocks = args.tile_blocks() / form.groups;
  const int64_t first_chunk = item % args.parts() * args.part;
  const int64_t last_chunk = first_chunk + args.part < args.chunks ? first_chunk + args.part : args.chunks;
  const Group& group = form.group[block / blocks];
  Tiles tiles(form, group, block % blocks * kTiles);
  if (args.counts && first_chunk == 0) args.counts[block] = tiles.pixels(form.m);

  float* results = scratch(Scratch::tiles, 16 * kSlab<S> * sizeof(S) / sizeof(float) + kPart * 16 * kResultSlab);
  S* values = reinterpret_cast<S*>(results + kPart * 16 * kResultSlab);
  const auto* terms = reinterpret_cast<const Term<S>*>(values);
  const auto* packed = static_cast<const Term<S>*>(args.packed);
  constexpr int kStep = kValues<S>;
  auto result = [&](int64_t chunk) { return results + (chunk - first_chunk) * 16 * kResultSlab; };
  uint64_t started = 0;  // places with a result
  for (int u = 0; u < group.uses; ++u) {
    if (!tiles.find_inputs(form, group.use[u])) continue;
    const Block& taps = form.block[group.use[u].block];
    int64_t k = 0;
    for (int s = 0; s < args.source_count; ++s) {
      const Source& source = args.sources[s];
      for (int64_t c = 0; c < source.channels; c += kDepth) {
        const int64_t depth = source.channels - c < kDepth ? source.channels - c : kDepth;
        with_tiling(form, [&](auto tiling) { transform<S, decltype(tiling)>(source, c, depth, tiles, values); });
        for_chunks(args, first_chunk, last_chunk, [&](const Target&, int64_t, int64_t width, int64_t chunk) {
          for (int place = 0; place < 16; ++place) {
            if (!taps.lives(place)) continue;
            const int64_t panel = (group.use[u].block * args.chunks + chunk) * 16 + place;
            product<kRowOf<S> / kStep, 1, kChunk>(terms + place * (kSlab<S> / kStep),
                                                  packed + (panel * form.shape.channels_in + k) / kStep * kChunk,
                                                  depth / kStep, result(chunk) + place * kResultSlab, kChunk,
                                                  started >> place & 1, tiles.count, width > kLanes);
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
    if (target.source) {
      finish_chunk<ActivationGrad<S>>(form, target, c, width, result(chunk), tiles.output, tiles.count, block);
    } else {
      finish_chunk<StoreWithStats<S>>(form, target, c, width, result(chunk), tiles.output, tiles.count, block);
    }
  });
  end_stream();
}

// item = block * chunks + chunk: packs G w G^T of it as [16, terms of channels_in, kChunk]; lanes past a target's end
// are zero.
template <class S, class W>
void pack_item(const Correlation& args, const Taps& w, int64_t item, Term<S>* packed) {
  const Form& form = *args.form;
  int64_t first = 0, width = 0;
  const int64_t chunk = item % args.chunks;
  for_chunks(args, chunk, chunk + 1, [&](const Target& target, int64_t c, int64_t own_width, int64_t) {
    first = target.first + c;
    width = own_width;
  });
  const int64_t place = form.shape.channels_in / kValues<S> * kChunk;
  Term<S>* out = packed + item * 16 * place;
  alignas(64) PackTaps taps = {};
  for (int64_t k0 = 0; k0 < form.shape.channels_in; k0 += kPackRows) {
    read_taps<W>(form, form.block[item / args.chunks], w, k0, first, width, taps);
    with_tiling(form, [&](auto tiling) {
      using T = decltype(tiling);
      for (int k = 0; k < kPackRows; ++k, out += k % kValues<S> ? 0 : kChunk) {
        for (int lane = 0; lane < kChunk; lane += kLanes) {
          auto column = [&](int j) {
            return T::weight({load(taps[0][j][k] + lane), load(taps[1][j][k] + lane),
                              T::r == 3 ? load(taps[2][j][k] + lane) : vfloat{}, vfloat{}});
          };
          const Quad c0 = column(0), c1 = column(1), c2 = T::r == 3 ? column(2) : Quad{};
          for (int i = 0; i < T::side; ++i) {
            const Quad u = T::weight(row(c0, c1, c2, Quad{}, i));
            put_row<T::side>([&](int at, int64_t c, vfloat v) { put_term(out + at * place + c, v, k % 2); }, 4 * i,
                             lane, u);
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace fi::FI_ISA
