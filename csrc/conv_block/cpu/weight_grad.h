// The weight gradient of winograd.h: dw = G^T [ sum over tiles of (B^T d B) . (A dy A^T) ] G.
//
// One work item walks its tiles in order, for a chunk of input and a chunk of output channels.
#pragma once

#include "conv_block/cpu/product.h"
#include "conv_block/cpu/winograd_large.h"

namespace fi::FI_ISA {
namespace {

constexpr int kUnpackAhead = 8;  // input channels whose sums are asked for before they are read: each lies apart
constexpr int kBatchTerms = 56;  // of one product: tiles, or pairs of them
template <class S>
constexpr int kBatch = kBatchTerms * kValues<S>;
constexpr int kRowIn = kChunkIn + 16, kRowOut = kChunkOut + 16;  // off a power of two, for the caches
// One place's values; the places of a tile fall on different sets of the first cache.
constexpr int64_t kSlabIn = kBatchTerms * kRowIn + 16, kSlabOut = kBatchTerms * kRowOut + 16;

// Where tile number i of a batch goes.
template <int64_t SLAB, int ROW>
Places<float, SLAB> tile_places(float* values, int64_t i) {
  return {values + i * ROW};
}
template <int64_t SLAB, int ROW>
PairPlaces<SLAB> tile_places(Pair* values, int64_t i) {
  return {values + i / 2 * ROW, i % 2 != 0};
}

// out(place, c) = (A dy A^T)[place] for `width` channels from c0 on.
template <class T, class R, class Out>
void transform_upstream(const Source& source, int64_t c0, int64_t width, const Patch& p, const Out& out) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const R read(source, c0 + c);
    auto column = [&](int j) {
      return T::upstream({read.template at<false>(p.pixel[0][j]), read.template at<false>(p.pixel[1][j]),
                          T::m == 3 ? read.template at<false>(p.pixel[2][j]) : vfloat{}, vfloat{}});
    };
    const Quad d0 = column(0), d1 = column(1), d2 = T::m == 3 ? column(2) : Quad{};
    for (int i = 0; i < T::side; ++i) put_row<T::side>(out, 4 * i, c, T::upstream(row(d0, d1, d2, Quad{}, i)));
  }
}

struct Work {
  int block;
  int64_t begin, end;  // tiles
  const Source* source;
  int64_t channel, k0, depth;  // channels [channel, channel + depth) of the source, k0 of all sources
  int64_t n0, width;           // output channels
  float* product;              // of the split and block
};

Work work_of(const WeightGrad& args, int64_t item) {
  Work w{};
  const int64_t piece_out = item % args.pieces_out;
  item /= args.pieces_out;
  int64_t piece = item % args.pieces_in;
  item /= args.pieces_in;
  w.block = static_cast<int>(item % args.form->blocks);
  const int64_t split = item / args.form->blocks, tiles = args.form->tiles();
  w.begin = tiles * split / args.splits;
  w.end = tiles * (split + 1) / args.splits;
  for (int s = 0; s < args.source_count; ++s) {
    const int64_t channels = args.sources[s].channels, pieces = (channels + args.chunk_in - 1) / args.chunk_in;
    if (piece < pieces) {
      w.source = &args.sources[s];
      w.channel = piece * args.chunk_in;
      w.k0 += w.channel;
      w.depth = channels - w.channel < args.chunk_in ? channels - w.channel : args.chunk_in;
      break;
    }
    piece -= pieces;
    w.k0 += channels;
  }
  w.n0 = piece_out * args.chunk_out;
  const int64_t rest = args.form->shape.channels_out - w.n0;
  w.width = rest < args.chunk_out ? rest : args.chunk_out;
  w.product = args.product + split * args.split_size() + w.block * args.block_size();
  return w;
}

// Transforms one tile's input patch.
template <class S, class T, class Out>
void transform_inputs(const Work& w, const PatchFor<T>& in, const Out& to) {
  with_reader<S>(*w.source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    in.inside ? transform_input<T, R, true>(*w.source, w.channel, w.depth, in, to)
              : transform_input<T, R, false>(*w.source, w.channel, w.depth, in, to);
  });
}

// Transforms one tile's patch of G, which is plain or affine in y with dy as its addend.
template <class S, class T, class Out>
void transform_upstreams(const Work& w, const Source& upstream, const PatchFor<T>& out, const Out& to) {
  auto by = [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    transform_upstream<T, R>(upstream, w.n0, w.width, out, to);
  };
  upstream.mean ? by(static_cast<Reader<S, 1, 0, 1>*>(nullptr)) : by(static_cast<Reader<S, 0, 0, 0>*>(nullptr));
}

template <class S, class T>
FI_INLINE void prefetch_patches(const Work& w, const Source& upstream, const PatchFor<T>& in, const PatchFor<T>& out) {
  prefetch<S, kPatchSide<T>>(*w.source, w.channel, w.depth, in);
  prefetch<S, T::m>(upstream, w.n0, w.width, out);
}

// product[place, k0 + k, n0 + n] (+)= sum over the batch of values[place][tile][k] * upstream[place][tile][n].
template <class T>
void multiply(const Work& w, const Form& form, const T* values, const T* upstream, int64_t terms, bool add) {
  const ConvShape& shape = form.shape;
  for (int place = 0; place < form.places; ++place) {
    if (!form.block[w.block].lives(place)) continue;
    float* out = w.product + (place * shape.channels_in + w.k0) * shape.channels_out + w.n0;
    for (int64_t n = 0; n < w.width; n += kChunk) {
      product<1, kRowIn, kRowOut>(values + place * kSlabIn, upstream + place * kSlabOut + n, terms, out + n,
                                  shape.channels_out, add, w.depth, w.width - n > kLanes);
    }
  }
}

void clear(const Work& w, const Form& form) {
  const ConvShape& shape = form.shape;
  for (int place = 0; place < form.places; ++place) {
    for (int64_t k = 0; k < w.depth; ++k) {
      float* out = w.product + (place * shape.channels_in + w.k0 + k) * shape.channels_out + w.n0;
      for (int64_t n = 0; n < w.width; ++n) out[n] = 0;
    }
  }
}

// taps[i][j] = (G^T u G)[i, j], where u(place) is the sum over the tiles.
template <class T, class Sum, class W>
void transform_weight_grad(T, const Sum& u, W (&taps)[3][3][kLanes]) {
  auto column = [&](int j) { return T::weight_grad({u(j), u(4 + j), u(8 + j), u(12 + j)}); };
  const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
  for (int i = 0; i < T::r; ++i) store_row<3>(taps[i][0], kLanes, T::weight_grad(row(c0, c1, c2, c3, i)));
}

// Writes the taps of one block for the output channels [n0, n0 + kLanes), summed over the splits.
template <class S, class W>
void unpack_vector(const WeightGrad& args, const Taps& dw, int number, int64_t n0) {
  const Form& form = *args.form;
  const int64_t channels_in = form.shape.channels_in, channels_out = form.shape.channels_out;
  const Block& block = form.block[number];
  const int64_t place = channels_in * channels_out;
  const float* base = args.product + number * args.block_size() + n0;
  for (int64_t k = 0; k < channels_in; ++k, base += channels_out) {
    for (int at = 0; at < form.places; ++at) __builtin_prefetch(base + at * place + kUnpackAhead * channels_out);
    auto total = [&](int at) {
      if (!block.lives(at)) return vfloat{};
      vfloat sum = load(base + at * place);
      for (int64_t split = 1; split < args.splits; ++split) {
        sum += load(base + at * place + split * args.split_size());
      }
      return sum;
    };
    alignas(64) W taps[3][3][kLanes];
    with_any_tiling<S>(form, [&](auto tiling) { transform_weight_grad(tiling, total, taps); });
    for (int n = 0; n < kLanes; ++n) {
      W* to = static_cast<W*>(dw.data) + k * dw.in + (n0 + n) * dw.out + block.kt * dw.t;
      for (int i = 0; i < form.r; ++i)
        for (int j = 0; j < form.r; ++j)
          if (block.ky[i] >= 0 && block.kx[j] >= 0) to[block.ky[i] * dw.y + block.kx[j] * dw.x] = taps[i][j][n];
    }
  }
}

template <class S, class T>
void sum_tiles(const WeightGrad& args, const Work& w) {
  const Form& form = *args.form;
  auto* values = reinterpret_cast<Term<S>*>(scratch(Scratch::tiles, form.places * (kSlabIn + kSlabOut)));
  auto* upstream = values + form.places * kSlabIn;
  bool started = false;
  for (int g = 0; g < form.groups; ++g) {
    for (int u = 0; u < form.group[g].uses; ++u) {
      const Use& use = form.group[g].use[u];
      if (use.block != w.block) continue;
      for (int64_t next = w.begin; next < w.end;) {
        PatchFor<T> in[kBatch<S>], out[kBatch<S>];
        int64_t batch = 0;
        for (; next < w.end && batch < kBatch<S>; ++next) {
          const Tile tile = tile_at(form, next);
          if (input_patch(form, use, tile, in[batch])) {
            out[batch++] = output_patch<sizeof(in->pixel[0]) / sizeof(int64_t)>(form, form.group[g], tile);
          }
        }
        for (int64_t i = 0; i < batch; ++i) {
          if (i + 1 < batch) prefetch_patches<S, T>(w, args.upstream, in[i + 1], out[i + 1]);
          transform_inputs<S, T>(w, in[i], tile_places<kSlabIn, kRowIn>(values, i));
          transform_upstreams<S, T>(w, args.upstream, out[i], tile_places<kSlabOut, kRowOut>(upstream, i));
        }
        const int64_t terms = (batch + kValues<S> - 1) / kValues<S>;
        if (batch) multiply(w, form, values, upstream, terms, started);
        started |= batch > 0;
      }
    }
  }
  if (!started) clear(w, form);
}

template <class S>
void weight_grad_item(const WeightGrad& args, int64_t item) {
  with_any_tiling<S>(*args.form, [&](auto tiling) { sum_tiles<S, decltype(tiling)>(args, work_of(args, item)); });
}

// item = block * (channels_out / 16) + group of 16 output channels: writes dw's taps of that block.
template <class S, class W>
void unpack_item(const WeightGrad& args, const Taps& dw, int64_t item) {
  const int64_t groups = args.form->shape.channels_out / 16;
  for (int64_t n0 = item % groups * 16, end = n0 + 16; n0 < end; n0 += kLanes) {
    unpack_vector<S, W>(args, dw, static_cast<int>(item / groups), n0);
  }
}

}  // namespace
}  // namespace fi::FI_ISA
