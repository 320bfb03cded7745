// The weight gradient of winograd.h from float32 maps.
#include "conv_block/cpu/weight_grad.h"

namespace fi::FI_ISA {
namespace {

// Transforms one tile's input patch.
template <class T>
void transform_inputs(const Work& w, const PatchFor<T>& in, const Places<float, kSlabIn>& to) {
  with_reader<float>(*w.source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    const bool inside = kMayBeInside<T> && in.inside;
    inside ? transform_input<T, R, true>(*w.source, w.channel, w.depth, in, to)
           : transform_input<T, R, false>(*w.source, w.channel, w.depth, in, to);
  });
}

// Transforms one tile's patch of G, which is plain or affine in y with dy as its addend.
template <class T>
void transform_upstreams(const Work& w, const Source& upstream, const PatchFor<T>& out,
                         const Places<float, kSlabOut>& to) {
  auto by = [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    transform_upstream<T, R>(upstream, w.n0, w.width, out, to);
  };
  upstream.mean ? by(static_cast<Reader<float, true, true, false>*>(nullptr))
                : by(static_cast<Reader<float, false, false, false>*>(nullptr));
}

template <class T>
FI_INLINE void prefetch_patches(const Work& w, const Source& upstream, const PatchFor<T>& in, const PatchFor<T>& out) {
  prefetch<float, kPatchSide<T>>(*w.source, w.channel, w.depth, in);
  prefetch<float, T::m>(upstream, w.n0, w.width, out);
}

// product[place, k0 + k, n0 + n] (+)= sum over the batch of values[place][tile][k] * upstream[place][tile][n].
template <class T>
void multiply(const Work& w, const Form& form, const T* values, const T* upstream, int64_t terms, bool add) {
  const ConvShape& shape = form.shape;
  for (int place = 0; place < form.places; ++place) {
    if (!form.block[w.block].lives(place)) continue;
    float* out = w.product + place * w.place + w.k0 * shape.channels_out + w.n0;
    for (int64_t n = 0; n < w.width; n += kChunk) {
      product<1, kRowIn, kRowOut>(values + place * kSlabIn, upstream + place * kSlabOut + n, terms, out + n,
                                  shape.channels_out, add, w.depth, w.width - n > kLanes);
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
void unpack_vector(const WeightGrad& args, const Taps& dw, int number, int64_t n0) {
  const Form& form = *args.form;
  const int64_t channels_in = form.shape.channels_in, channels_out = form.shape.channels_out;
  const Block& block = form.block[number];
  const int64_t place = args.place_size();
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
    alignas(64) float taps[3][3][kLanes];
    with_any_tiling(form, [&](auto tiling) { transform_weight_grad(tiling, total, taps); });
    for (int n = 0; n < kLanes; ++n) {
      float* to = static_cast<float*>(dw.data) + k * dw.in + (n0 + n) * dw.out + block.kt * dw.t;
      for (int i = 0; i < form.r; ++i)
        for (int j = 0; j < form.r; ++j)
          if (block.ky[i] >= 0 && block.kx[j] >= 0) to[block.ky[i] * dw.y + block.kx[j] * dw.x] = taps[i][j][n];
    }
  }
}

template <class T>
void sum_tiles(const WeightGrad& args, const Work& w) {
  const Form& form = *args.form;
  float* values = scratch(Scratch::tiles, form.places * (kSlabIn + kSlabOut));
  float* upstream = values + form.places * kSlabIn;
  bool started = false;
  for (int g = 0; g < form.groups; ++g) {
    for (int u = 0; u < form.group[g].uses; ++u) {
      const Use& use = form.group[g].use[u];
      if (use.block != w.block) continue;
      for (int64_t next = w.begin; next < w.end;) {
        PatchFor<T> in[kBatchTerms], out[kBatchTerms];
        int64_t batch = 0;
        for (; next < w.end && batch < kBatchTerms; ++next) {
          const Tile tile = tile_at(form, next);
          if (input_patch(form, use, tile, in[batch])) {
            out[batch++] = output_patch<sizeof(in->pixel[0]) / sizeof(int64_t)>(form, form.group[g], tile);
          }
        }
        for (int64_t i = 0; i < batch; ++i) {
          if (i + 1 < batch) prefetch_patches<T>(w, args.upstream, in[i + 1], out[i + 1]);
          transform_inputs<T>(w, in[i], {values + i * kRowIn});
          transform_upstreams<T>(w, args.upstream, out[i], {upstream + i * kRowOut});
        }
        if (batch) multiply(w, form, values, upstream, batch, started);
        started |= batch > 0;
      }
    }
  }
  if (!started) clear(w, form);
}

// item = block * (channels_out / 16) + group of 16 output channels: writes dw's taps of that block.
void unpack_item(const WeightGrad& args, const Taps& dw, int64_t item) {
  const int64_t groups = args.form->shape.channels_out / 16;
  for (int64_t n0 = item % groups * 16, end = n0 + 16; n0 < end; n0 += kLanes) {
    unpack_vector(args, dw, static_cast<int>(item / groups), n0);
  }
}

}  // namespace

void weight_grad(const WeightGrad& args, int64_t item) {
  with_any_tiling(*args.form, [&](auto tiling) { sum_tiles<decltype(tiling)>(args, work_of(args, item)); });
}
void unpack_weight_grad(const WeightGrad& args, const Taps& dw, int64_t item) { unpack_item(args, dw, item); }

}  // namespace fi::FI_ISA
