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
constexpr int kRowIn = kChunkIn + 16, kRowOut = kChunkOut + 16;  // off a power of two, for the caches
// One place's values; the places of a tile fall on different sets of the first cache.
constexpr int64_t kSlabIn = kBatchTerms * kRowIn + 16, kSlabOut = kBatchTerms * kRowOut + 16;

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
  int64_t place;               // values from one place of it to the next
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
  w.place = args.place_size();
  return w;
}

void clear(const Work& w, const Form& form) {
  const ConvShape& shape = form.shape;
  for (int place = 0; place < form.places; ++place) {
    for (int64_t k = 0; k < w.depth; ++k) {
      float* out = w.product + place * w.place + (w.k0 + k) * shape.channels_out + w.n0;
      for (int64_t n = 0; n < w.width; ++n) out[n] = 0;
    }
  }
}

}  // namespace
}  // namespace fi::FI_ISA
