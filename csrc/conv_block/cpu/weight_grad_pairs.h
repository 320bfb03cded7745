// The weight gradient of winograd.h from bfloat16 maps: products sum tiles two by two.
//
// Two tiles are transformed together, and each vector of their pairs is stored once.
#pragma once

#include "conv_block/cpu/amx.h"
#include "conv_block/cpu/folded_reader.h"
#include "conv_block/cpu/rounded.h"
#include "conv_block/cpu/unpack.h"
#include "conv_block/cpu/weight_grad.h"

namespace fi::FI_ISA {
namespace {

constexpr int kPairs = 128;  // of one product, most: sums of many products are read and written less often
// One place's values. Without the last term all 16 places of a pair would share a set of the first cache.
constexpr int64_t kPairSlabIn = kPairs * kRowIn + 48, kPairSlabOut = kPairs * kRowOut + 48;

// B^T d B.
template <class T, bool INSIDE, class R>
FI_INLINE Rounded<T> rounded_input(const R& read, const Offsets& from) {
  auto column = [&](int j) {
    return T::input({read.template at<INSIDE>(from.at[0][j]), read.template at<INSIDE>(from.at[1][j]),
                     read.template at<INSIDE>(from.at[2][j]), read.template at<INSIDE>(from.at[3][j])});
  };
  const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
  Rounded<T> out;
  for (int i = 0; i < T::side; ++i) out.put(i, T::input(row(c0, c1, c2, c3, i)));
  return out;
}

// A dy A^T.
template <class T, bool INSIDE, class R>
FI_INLINE Rounded<T> rounded_upstream(const R& read, const Offsets& from) {
  auto column = [&](int j) {
    return T::upstream({read.template at<INSIDE>(from.at[0][j]), read.template at<INSIDE>(from.at[1][j]),
                        T::m == 3 ? read.template at<INSIDE>(from.at[2][j]) : vfloat{}, vfloat{}});
  };
  const Quad d0 = column(0), d1 = column(1), d2 = T::m == 3 ? column(2) : Quad{};
  Rounded<T> out;
  for (int i = 0; i < T::side; ++i) out.put(i, T::upstream(row(d0, d1, d2, Quad{}, i)));
  return out;
}

// to[place * slab + c] = the pair of f(INSIDE, reader, offsets) of two tiles, for `width` channels from `first` on. An
// absent second tile is zero.
template <class T, class R, class F>
void transform_pair(const Source& source, int64_t first, int64_t width, const Offsets& one, const Offsets* other,
                    Pair* to, int64_t slab, F f) {
  auto all = [&](auto within) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const R read(source, first + c);
      const auto a = f(within, read, one);
      store_rounded(to + c, slab, a, other ? f(within, read, *other) : Rounded<T>{});
    }
  };
  const bool inside = !kGeneralOnly && one.inside && other && other->inside;
  inside ? all(std::true_type()) : all(std::false_type());
}

// Transforms `batch` tiles into pairs.
template <class T>
void transform_batch(const Work& w, const Source& upstream, const Patch* in, const Patch* out, int64_t batch,
                     Pair* values, Pair* gradients) {
  for (int64_t i = 0; i < batch; i += 2, values += kRowIn, gradients += kRowOut) {
    const bool both = i + 1 < batch;
    for (int64_t ahead = i + 2; ahead < i + 4 && ahead < batch; ++ahead) {
      prefetch<Bf16, 4>(*w.source, w.channel, w.depth, in[ahead]);
      prefetch<Bf16, T::m>(upstream, w.n0, w.width, out[ahead]);
    }
    const int64_t last = both ? i + 1 : i;
    const Offsets first_in(in[i], w.source->channels, 4), second_in(in[last], w.source->channels, 4);
    const Offsets first_out(out[i], upstream.channels, T::m), second_out(out[last], upstream.channels, T::m);
    with_folded_reader(*w.source, [&](auto* reader) {
      using R = std::remove_pointer_t<decltype(reader)>;
      transform_pair<T, R>(*w.source, w.channel, w.depth, first_in, both ? &second_in : nullptr, values, kPairSlabIn,
                           [](auto inside, const auto& read, const Offsets& from) __attribute__((always_inline)) {
                             return rounded_input<T, decltype(inside)::value>(read, from);
                           });
    });
    with_folded_upstream(upstream, [&](auto* reader) {
      using R = std::remove_pointer_t<decltype(reader)>;
      transform_pair<T, R>(upstream, w.n0, w.width, first_out, both ? &second_out : nullptr, gradients, kPairSlabOut,
                           [](auto inside, const auto& read, const Offsets& from) __attribute__((always_inline)) {
                             return rounded_upstream<T, decltype(inside)::value>(read, from);
                           });
    });
  }
}

// As `multiply`, of pairs.
void multiply_pairs(const Work& w, const Form& form, const Pair* values, const Pair* gradients, int64_t terms,
                    bool add) {
  const ConvShape& shape = form.shape;
  const MultiplyByAmx by_amx = amx();
  for (int place = 0; place < 16; ++place) {
    if (!form.block[w.block].lives(place)) continue;
    float* out = w.product + place * w.place + w.k0 * shape.channels_out + w.n0;
    if (by_amx) {
      by_amx({&values[place * kPairSlabIn].bits, &gradients[place * kPairSlabOut].bits, out, 1, kRowIn, kRowOut,
              shape.channels_out, w.depth, w.width, terms, add});
      continue;
    }
    for (int64_t n = 0; n < w.width; n += kChunk) {
      product<1, kRowIn, kRowOut>(values + place * kPairSlabIn, gradients + place * kPairSlabOut + n, terms, out + n,
                                  shape.channels_out, add, w.depth, w.width - n > kLanes);
    }
  }
}

template <class T>
void sum_pairs(const WeightGrad& args, const Work& w) {
  const Form& form = *args.form;
  auto* values = reinterpret_cast<Pair*>(scratch(Scratch::tiles, 16 * (kPairSlabIn + kPairSlabOut)));
  Pair* gradients = values + 16 * kPairSlabIn;
  bool started = false;
  for (int g = 0; g < form.groups; ++g) {
    for (int u = 0; u < form.group[g].uses; ++u) {
      const Use& use = form.group[g].use[u];
      if (use.block != w.block) continue;
      for (int64_t next = w.begin; next < w.end;) {
        const int64_t rest = w.end - next, batches = (rest + 2 * kPairs - 1) / (2 * kPairs);
        const int64_t most = ((rest + batches - 1) / batches + 1) / 2 * 2;  // of batches of nearly equal size
        Patch in[2 * kPairs], out[2 * kPairs];
        int64_t batch = 0;
        for (; next < w.end && batch < most; ++next) {
          const Tile tile = tile_at(form, next);
          if (input_patch(form, use, tile, in[batch])) out[batch++] = output_patch(form, form.group[g], tile);
        }
        if (batch == 0) continue;
        transform_batch<T>(w, args.upstream, in, out, batch, values, gradients);
        multiply_pairs(w, form, values, gradients, (batch + 1) / 2, started);
        started = true;
      }
    }
  }
  if (!started) clear(w, form);
}

void weight_grad_pairs_item(const WeightGrad& args, int64_t item) {
  with_tiling(*args.form, [&](auto tiling) { sum_pairs<decltype(tiling)>(args, work_of(args, item)); });
}

}  // namespace
}  // namespace fi::FI_ISA
