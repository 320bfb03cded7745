// Batch norm on the CPU between two convolutions: per-channel vectors of the batch's statistics, in one call forward and
// one backward. All vectors are [channels] in one dtype: double where `is_double`, else float. Both functions return 0.
//
//     rstd = 1 / sqrt(var + eps)     scale = weight * rstd     shift = bias
//     running += momentum * (batch - running), the running variance being unbiased: correction = M / (M - 1)
//
// and, given dmean and dscale, what reaches y through its statistics, G = (y - mean) * by_y + constant + dy:
//
//     by_y = 2 / M * dvar,   dvar = dscale * -1/2 * scale * rstd^2     constant = dmean / M     dweight = dscale * rstd
#include "batch_norm/cpu.h"

#include <cmath>

#include "common/cpu_isa.h"

namespace fi {

namespace {

template <class A>
void fwd(const BatchNormFwd& p) {
  const auto at = [](const void* v) { return static_cast<const A*>(v); };
  const auto out = [](void* v) { return static_cast<A*>(v); };
  const auto follow = [&](void* running, int64_t c, double value) {
    if (!running) return;
    const double old = out(running)[c];
    out(running)[c] = static_cast<A>(old + p.momentum * (value - old));
  };
  for (int64_t c = 0; c < p.channels; ++c) {
    const double var = at(p.var)[c], rstd = 1 / std::sqrt(var + p.eps);
    const double scale = p.weight ? at(p.weight)[c] * rstd : rstd;
    out(p.scale)[c] = static_cast<A>(scale);
    out(p.shift)[c] = p.bias ? at(p.bias)[c] : A(0);
    follow(p.running_mean, c, at(p.mean)[c]);
    follow(p.running_var, c, var * p.correction);
  }
  if (p.tracked) ++*p.tracked;
}

template <class A>
void bwd(const BatchNormBwd& p) {
  const auto at = [](const void* v, int64_t c) { return v ? static_cast<double>(static_cast<const A*>(v)[c]) : 0.0; };
  const auto out = [](void* v) { return static_cast<A*>(v); };
  for (int64_t c = 0; c < p.channels; ++c) {
    const double dscale = at(p.dscale, c), rstd = 1 / std::sqrt(at(p.var, c) + p.eps);
    out(p.by_y)[c] = static_cast<A>(-1 / p.values * dscale * at(p.scale, c) * rstd * rstd);
    out(p.constant)[c] = static_cast<A>(at(p.dmean, c) / p.values);
    if (p.dweight) out(p.dweight)[c] = static_cast<A>(dscale * rstd);
  }
}

}  // namespace
}  // namespace fi

using namespace fi;

FI_EXPORT int fi_cpu_batch_norm_fwd(const BatchNormFwd* p) {
  p->is_double ? fwd<double>(*p) : fwd<float>(*p);
  return 0;
}

FI_EXPORT int fi_cpu_batch_norm_bwd(const BatchNormBwd* p) {
  p->is_double ? bwd<double>(*p) : bwd<float>(*p);
  return 0;
}
