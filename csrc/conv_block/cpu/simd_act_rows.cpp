// The kernels of act_rows.h.
#include "conv_block/cpu/act_rows.h"
#include "conv_block/cpu/reader.h"
#include "norm_act/cpu_acts.h"

namespace fi::FI_ISA {
namespace {

template <class ACT>
void grad(const GradRows& g, float* results, int64_t row, const int64_t* pixel, int64_t count, float* sums) {
  const vfloat mean = load(g.vectors), scale = load(g.vectors + kLanes), shift = load(g.vectors + 2 * kLanes);
  const bool reads = g.affine || g.act != Act::none;
  vfloat s{}, q{};
  for (int64_t i = 0; i < count; ++i, results += row) {
    vfloat dz = load(results);
    const int64_t at = pixel[i] * g.channels;
    if (g.daddend) put(g.daddend + at, dz, g.n, kLineVectors == 1 && g.past_caches, nullptr);
    if (reads) {
      const vfloat centred = load_n(g.x + at, g.n) - mean;
      dz = ACT::bwd(centred * scale + shift, g.parameter, dz);
      s += dz;
      q += dz * centred;
    }
    put(g.out + at, dz * scale, g.n, g.past_caches, results);
  }
  store(sums, s);
  store(sums + kLanes, q);
}

}  // namespace

void act_rows(const ActRows& args) {
  with_act<float>(args.act, [&](auto chosen) {
    float* rows = args.rows;
    for (int64_t i = 0; i < args.count; ++i, rows += args.stride) {
      if (args.pixel[i] < 0) continue;
      for (int64_t k = 0; k < args.width; k += kLanes) {
        vfloat v = decltype(chosen)::fwd(load(rows + k), args.parameter);
        if (args.addend) v += load_n(args.addend + args.pixel[i] * args.channels + k, args.width - k);
        store(rows + k, v);
      }
    }
  });
}

void grad_rows(const GradRows& args, float* results, int64_t row, const int64_t* pixel, int64_t count,
               float* sums) {
  with_act<float>(args.act, [&](auto chosen) { grad<decltype(chosen)>(args, results, row, pixel, count, sums); });
}

}  // namespace fi::FI_ISA
