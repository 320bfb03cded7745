// Entry points of `norm_act` on the CPU: splits each sample's pixels into blocks and merges their sums in a fixed
// order, so a result does not depend on the number of threads. Every function returns 0.
//
// Statistics are taken over each sample and group of channels; for batch norm all the batch is one sample, and each
// channel a group. Vectors named mean and var are [samples, channels], those named weight, bias and slope [channels],
// all in the wide dtype: double for maps of doubles, else float.
#include "norm_act/cpu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "activation/cpu_blocks.h"
#include "activation/cpu_merge.h"

namespace fi {

struct NormActProblem {
  int64_t samples, pixels, channels, groups;  // pixels of a sample
  int64_t act, dtype;
  int64_t of_batch;  // whether mean and var are x's own statistics: then backward goes through them too
  double parameter, eps;
};

namespace {

// Sums a channel that backward takes: see `NormActBwd`.
int64_t sum_rows(const NormActProblem& p) { return p.act == static_cast<int64_t>(Act::prelu) ? 3 : 2; }

// z's vectors [samples, channels] from statistics and parameters; z = x + addend where mean is null.
template <class A>
struct Affine {
  std::vector<A> mean, scale, shift, rstd;

  Affine(const NormActProblem& p, const void* given_mean, const void* var, const void* weight, const void* bias) {
    const int64_t count = p.samples * p.channels;
    mean.assign(count, A(0));
    scale.assign(count, A(1));
    shift.assign(count, A(0));
    rstd.assign(count, A(1));
    if (!given_mean) return;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = i % p.channels;
      mean[i] = static_cast<const A*>(given_mean)[i];
      if (var) rstd[i] = A(1) / std::sqrt(static_cast<const A*>(var)[i] + A(p.eps));
      scale[i] = weight ? static_cast<const A*>(weight)[c] * rstd[i] : rstd[i];
      if (bias) shift[i] = static_cast<const A*>(bias)[c];
    }
  }
  NormAct form(const NormActProblem& p, const void* x, const void* addend, const void* slope, int64_t sample) const {
    const int64_t first = sample * p.pixels * p.channels, c = sample * p.channels;
    return {moved(x, first, bytes(p)),
            moved(addend, first, bytes(p)),
            &mean[c],
            &scale[c],
            &shift[c],
            p.channels,
            static_cast<Act>(p.act),
            p.parameter,
            slope};
  }
};

// What backward reads and writes.
struct Maps {
  const void *da, *x, *addend, *out, *slope;
  int64_t stride, offset;
  void *dx, *daddend;
};

NormActBwd of_sample(const NormActProblem& p, const NormAct& form, const Maps& maps, int64_t sample) {
  const int64_t first = sample * p.pixels * p.channels;
  NormActBwd args{form,
                  moved(maps.da, sample * p.pixels * maps.stride, bytes(p)),
                  moved(maps.out, first, bytes(p)),
                  maps.stride,
                  maps.offset,
                  moved(maps.daddend, first, bytes(p)),
                  moved(maps.dx, first, bytes(p)),
                  nullptr,
                  nullptr,
                  nullptr,
                  nullptr,
                  leaves_caches(p, maps.dx, p.channels, 0)};
  return args;
}

// dx = by_dz * dz + by_x * (x - mean) + constant, of each sample and channel.
template <class A>
struct Coefficients {
  std::vector<A> by_dz, by_x, constant;
};

// With M values a group, w the weight, S and T a channel's sums of dz and of dz * (x - mean):
//   dx = rstd * (w dz - (sum w S) / M - (x - mean) rstd^2 (sum w T) / M),   dweight = sum T rstd,   dbias = sum S
template <class A>
Coefficients<A> through_statistics(const NormActProblem& p, const Affine<A>& affine, const std::vector<double>& sums) {
  const int64_t per_group = p.channels / p.groups, rows = sum_rows(p);
  const double count = static_cast<double>(p.pixels * per_group);
  Coefficients<A> result{affine.scale, std::vector<A>(affine.scale.size()), std::vector<A>(affine.scale.size())};
  for (int64_t s = 0; s < p.samples; ++s) {
    for (int64_t g = 0; g < p.groups; ++g) {
      double of_dz = 0, of_dz_x = 0;
      for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        const double scale = affine.scale[s * p.channels + c];  // w * rstd, and a group has one rstd
        of_dz += scale * sums[rows * s * p.channels + c];
        of_dz_x += scale * sums[(rows * s + 1) * p.channels + c];
      }
      for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        const double rstd = affine.rstd[s * p.channels + c];
        result.by_x[s * p.channels + c] = static_cast<A>(-rstd * rstd * of_dz_x / count);
        result.constant[s * p.channels + c] = static_cast<A>(-of_dz / count);
      }
    }
  }
  return result;
}

template <class A>
void fwd(const NormActProblem& p, const void* x, const void* addend, const void* slope, const Affine<A>& affine,
         void* a, int64_t stride, int64_t offset, int threads) {
  for_blocks(p, threads, [&](int64_t sample, int64_t, int64_t begin, int64_t end) {
    const NormActFwd args{affine.form(p, x, addend, slope, sample), moved(a, sample * p.pixels * stride, bytes(p)),
                          stride, offset, leaves_caches(p, a, stride, offset)};
    FI_DISPATCH(norm_act_fwd(args, static_cast<Dtype>(p.dtype), begin, end))
  });
}

// The gradients [channels] of vectors; each may be null.
template <class A>
struct Vectors {
  A *dweight, *dbias, *dslope;
};

// Writes the vectors' gradients, and dz where daddend is wanted or dz * scale where dx is, one of them at most. Returns
// the sums [samples, rows, channels].
template <class A>
std::vector<double> take_sums(const NormActProblem& p, const Maps& maps, const Affine<A>& affine, Vectors<A> grads,
                              int threads) {
  const int64_t channels = p.channels, rows = sum_rows(p), values = rows * channels;
  std::vector<double> partial(p.samples * blocks(p) * values), sums;
  for_blocks(p, threads, [&](int64_t sample, int64_t block, int64_t begin, int64_t end) {
    NormActBwd args = of_sample(p, affine.form(p, maps.x, maps.addend, maps.slope, sample), maps, sample);
    args.sums = &partial[(sample * blocks(p) + block) * values];
    args.by_dz = &affine.scale[sample * channels];
    FI_DISPATCH(norm_act_sums(args, static_cast<Dtype>(p.dtype), begin, end))
  });
  for (int64_t s = 0; s < p.samples; ++s) {
    std::vector<double> own(values);
    add_blocks(&partial[s * blocks(p) * values], blocks(p), own);
    sums.insert(sums.end(), own.begin(), own.end());
  }
  for (int64_t c = 0; c < channels; ++c) {
    double of_bias = 0, of_weight = 0, of_slope = 0;
    for (int64_t s = 0; s < p.samples; ++s) {
      const double* own = &sums[s * values + c];
      of_bias += own[0];
      of_weight += own[channels] * affine.rstd[s * channels + c];
      if (rows > 2) of_slope += own[2 * channels];
    }
    if (grads.dbias) grads.dbias[c] = static_cast<A>(of_bias);
    if (grads.dweight) grads.dweight[c] = static_cast<A>(of_weight);
    if (grads.dslope) grads.dslope[c] = static_cast<A>(of_slope);
  }
  return sums;
}

template <class A>
void bwd(const NormActProblem& p, const Maps& maps, const Affine<A>& affine, bool normed, Vectors<A> grads,
         int threads) {
  const int64_t channels = p.channels;
  Coefficients<A> by{affine.scale, std::vector<A>(affine.scale.size()), std::vector<A>(affine.scale.size())};
  const bool summed = normed || grads.dslope;
  if (summed) {
    const bool whole = !(normed && p.of_batch) && !maps.daddend;  // then this pass writes dx
    Maps first = maps;
    if (!whole) first.dx = nullptr;
    const std::vector<double> sums = take_sums(p, first, affine, grads, threads);
    if (whole) return;
    if (normed && p.of_batch) by = through_statistics(p, affine, sums);
  }
  if (!maps.dx && !maps.daddend) return;
  Maps rest = maps;
  NormActProblem problem = p;
  if (summed && maps.daddend) {  // the pass that took the sums has written dz
    if (!maps.dx) return;
    problem.act = static_cast<int64_t>(Act::none);
    rest = {maps.daddend, maps.x, nullptr, nullptr, nullptr, channels, 0, maps.dx, nullptr};
  }
  for_blocks(p, threads, [&](int64_t sample, int64_t, int64_t begin, int64_t end) {
    NormActBwd args = of_sample(p, affine.form(problem, rest.x, rest.addend, rest.slope, sample), rest, sample);
    args.by_dz = &by.by_dz[sample * channels];
    args.by_x = &by.by_x[sample * channels];
    args.constant = &by.constant[sample * channels];
    FI_DISPATCH(norm_act_apply(args, static_cast<Dtype>(p.dtype), begin, end))
  });
}

template <class A>
void stats(const NormActProblem& p, const void* x, A* mean, A* var, int threads) {
  const int64_t channels = p.channels, size = block_pixels(p), part = blocks(p) * 3 * channels;
  std::vector<double> partial(p.samples * part);
  for_blocks(p, threads, [&](int64_t sample, int64_t block, int64_t begin, int64_t end) {
    const BatchStats args{moved(x, sample * p.pixels * channels, bytes(p)), channels, &partial[sample * part]};
    FI_DISPATCH(batch_stats(args, static_cast<Dtype>(p.dtype), block, begin, end))
  });
  const int64_t per_group = channels / p.groups;
  auto count = [&](int64_t block) { return std::min(size, p.pixels - block * size); };
  for (int64_t s = 0; s < p.samples; ++s, mean += channels, var += channels) {
    std::vector<double> own(&partial[s * part], &partial[s * part] + part), m(channels), v(channels);
    merge_stats(own, count, channels, m.data(), v.data());
    for (int64_t g = 0; g < channels; g += per_group) {
      double group_mean = 0, group_var = 0;
      for (int64_t c = g; c < g + per_group; ++c) group_mean += m[c] / per_group;
      for (int64_t c = g; c < g + per_group; ++c) {
        group_var += (v[c] + (m[c] - group_mean) * (m[c] - group_mean)) / per_group;
      }
      for (int64_t c = g; c < g + per_group; ++c) {
        mean[c] = static_cast<A>(group_mean);
        var[c] = static_cast<A>(group_var);
      }
    }
  }
}

bool in_double(const NormActProblem& p) { return p.dtype == static_cast<int64_t>(Dtype::float64); }

}  // namespace
}  // namespace fi

using namespace fi;

// mean and biased var of x [samples, pixels, channels]; a group's are those of each of its channels.
FI_EXPORT int fi_cpu_norm_act_stats(const NormActProblem* p, const void* x, void* mean, void* var, int threads) {
  if (in_double(*p)) {
    stats(*p, x, static_cast<double*>(mean), static_cast<double*>(var), threads);
  } else {
    stats(*p, x, static_cast<float*>(mean), static_cast<float*>(var), threads);
  }
  return 0;
}

// a = act((x - mean) / sqrt(var + eps) * weight + bias + addend), into the channels of a from `offset` on, whose rows
// have `stride`. mean and var, weight, bias and addend may be null; with var alone null its root counts as 1. slope is
// null of all activations but prelu.
FI_EXPORT int fi_cpu_norm_act_fwd(const NormActProblem* p, const void* x, const void* addend, const void* mean,
                                  const void* var, const void* weight, const void* bias, const void* slope, void* a,
                                  int64_t stride, int64_t offset, int threads) {
  if (in_double(*p)) {
    fwd(*p, x, addend, slope, Affine<double>(*p, mean, var, weight, bias), a, stride, offset, threads);
  } else {
    fwd(*p, x, addend, slope, Affine<float>(*p, mean, var, weight, bias), a, stride, offset, threads);
  }
  return 0;
}

// dx, daddend (either may be null), dweight, dbias and dslope [channels] in the wide dtype (may be null), from da,
// whose rows have `stride`, this map's channels from `offset` on. out: null, or a, from which act' is then taken.
FI_EXPORT int fi_cpu_norm_act_bwd(const NormActProblem* p, const void* da, int64_t stride, int64_t offset,
                                  const void* x, const void* addend, const void* out, const void* mean, const void* var,
                                  const void* weight, const void* bias, const void* slope, void* dx, void* daddend,
                                  void* dweight, void* dbias, void* dslope, int threads) {
  const Maps maps{da, x, addend, out, slope, stride, offset, dx, daddend};
  auto typed = [&](auto value) {
    using A = decltype(value);
    const Vectors<A> grads{static_cast<A*>(dweight), static_cast<A*>(dbias), static_cast<A*>(dslope)};
    bwd(*p, maps, Affine<A>(*p, mean, var, weight, bias), mean, grads, threads);
  };
  in_double(*p) ? typed(double{}) : typed(float{});
  return 0;
}
