// The correlation of winograd.h between float32 maps.
#include "conv_block/cpu/correlate.h"

namespace fi::FI_ISA {
namespace {

template <class T>
void transform(const Source& source, int64_t first, int64_t depth, const TilesOf<kPatchSide<T>>& tiles, float* values) {
  with_reader<float>(source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    for (int64_t i = 0; i < tiles.count; ++i) {
      const Places<float, kSlab<float>> to{values + i * kRowOf<float>};
      if (i + 1 < tiles.count && tiles.live[i + 1]) {
        prefetch<float, kPatchSide<T>>(source, first, depth, tiles.input[i + 1]);
      }
      if (!tiles.live[i]) {
        for (int place = 0; place < kPlaces<T>; ++place)
          for (int64_t c = 0; c < depth; c += kLanes) to(place, c, vfloat{});
      } else if (kMayBeInside<T> && tiles.input[i].inside) {
        transform_input<T, R, true>(source, first, depth, tiles.input[i], to);
      } else {
        transform_input<T, R, false>(source, first, depth, tiles.input[i], to);
      }
    }
  });
}

FI_INLINE void put_weight(float* to, vfloat v) { store(to, v); }
FI_INLINE void put_weight(float* to, vdouble v) { store_rounded(to, v); }

// Terms summed in a row. Larger tiles multiply the rounding of sums, and stock torch sums few channels more exactly.
template <class T>
int64_t chain_of(int64_t channels) {
  return T::side <= 4 || channels / 4 >= kChain ? kChain : channels / 4;
}

// The row of packed weights of one place of a block, at input channel k for a chunk of output channels.
template <class T>
int64_t packed_row(const Correlation& args, int64_t block, int place, int64_t chunk, int64_t k) {
  return ((block * kPlaces<T> + place) * args.chunks + chunk) * args.form->shape.channels_in + k;
}

template <class T>
void correlate_tiles(const Correlation& args, int64_t item) {
  constexpr int places = kPlaces<T>, kRow = kRowOf<float>;
  const Form& form = *args.form;
  const int64_t block = item / args.parts(), blocks = args.tile_blocks() / form.groups;
  const int64_t first_chunk = item % args.parts() * args.part;
  const int64_t last_chunk = first_chunk + args.part < args.chunks ? first_chunk + args.part : args.chunks;
  const Group& group = form.group[block / blocks];
  TilesOf<kPatchSide<T>> tiles(form, group, block % blocks * form.tiles_each);
  if (args.counts && first_chunk == 0) args.counts[block] = tiles.pixels(form.m);

  constexpr int64_t kResults = kPartChannels / kChunk * places * kResultSlab;
  float* results = scratch(Scratch::tiles, places * kSlab<float> + kResults);
  float* values = results + kResults;
  const auto* packed = static_cast<const float*>(args.packed);
  auto result = [&](int64_t chunk) { return results + (chunk - first_chunk) * places * kResultSlab; };
  const int64_t chain = chain_of<T>(form.shape.channels_in);
  uint64_t started = 0;  // places with a result
  for (int u = 0; u < group.uses; ++u) {
    if (!tiles.find_inputs(form, group.use[u])) continue;
    const int64_t number = group.use[u].block;
    int64_t k = 0;
    for (int s = 0; s < args.source_count; ++s) {
      const Source& source = args.sources[s];
      for (int64_t c = 0; c < source.channels; c += kDepth) {
        const int64_t depth = source.channels - c < kDepth ? source.channels - c : kDepth;
        transform<T>(source, c, depth, tiles, values);
        for (int place = 0; place < places; ++place) {
          if (!form.block[number].lives(place)) continue;
          for_chunks(args, first_chunk, last_chunk, [&](const Target&, int64_t, int64_t width, int64_t chunk) {
            const float* weights = packed + packed_row<T>(args, number, place, chunk, k) * kChunk;
            product<kRow, 1, kChunk>(values + place * kSlab<float>, weights, depth, result(chunk) + place * kResultSlab,
                                     kChunk, started >> place & 1, tiles.count, width > kLanes, chain);
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
      finish_chunk<T, ActivationGrad<float>>(target, c, width, result(chunk), tiles.output, tiles.count, block);
    } else {
      finish_chunk<T, StoreWithStats<float>>(target, c, width, result(chunk), tiles.output, tiles.count, block);
    }
  });
  end_stream();
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

// item = block * chunks + chunk: packs G w G^T of it, for each place as [channels_in, kChunk]; lanes past a
// target's end are zero.
void pack_item(const Correlation& args, const Taps& w, int64_t item, float* packed) {
  const Form& form = *args.form;
  int64_t first = 0, width = 0;
  const int64_t chunk = item % args.chunks, block = item / args.chunks;
  for_chunks(args, chunk, chunk + 1, [&](const Target& target, int64_t c, int64_t own_width, int64_t) {
    first = target.first + c;
    width = own_width;
  });
  const int64_t place = args.chunks * form.shape.channels_in * kChunk;
  alignas(64) PackTaps taps = {};
  with_any_tiling(form, [&](auto tiling) {
    using T = decltype(tiling);
    float* out = packed + packed_row<T>(args, block, 0, chunk, 0) * kChunk;
    for (int64_t k0 = 0; k0 < form.shape.channels_in; k0 += kPackRows) {
      read_taps<float>(form, form.block[block], w, k0, first, width, taps);
      for (int k = 0; k < kPackRows; ++k, out += kChunk) {
        transform_taps(tiling, taps, k, [&](int at, int64_t c, auto v) { put_weight(out + at * place + c, v); });
      }
    }
  });
}

}  // namespace

void chunk_channels(int64_t* channels) { *channels = kChunk; }
void pack_weights(const Correlation& args, const Taps& w, int64_t item, void* packed) {
  pack_item(args, w, item, static_cast<float*>(packed));
}
void correlate(const Correlation& args, int64_t item) {
  with_any_tiling(*args.form, [&](auto tiling) { correlate_tiles<decltype(tiling)>(args, item); });
}

}  // namespace fi::FI_ISA
