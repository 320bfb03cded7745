// Entry points of `masked_l1` on the CPU: one pass forward, one backward, no full-size temporary. Equations in
// fastinpaint/ops/masked_l1/reference.py. Sums are double, a frame's at a time and then in order, so a result does not
// depend on the number of threads. Every function returns 0.
#include "masked_l1/cpu.h"

#include <algorithm>
#include <vector>

#include "common/cpu_parallel.h"

namespace fi {
namespace {

template <class F>
void for_frames(const MaskedL1& args, int threads, F body) {
  auto item = [&](int64_t frame, int) { body(frame); };
  const int64_t values = args.batch * args.channels * args.frames * args.pixels;
  parallel_for(args.batch * args.frames, worth(values, threads), item);
}

}  // namespace
}  // namespace fi

using namespace fi;

// loss = mean over groups of error / (C * holes), a group being a frame or a sample's `frames`.
FI_EXPORT int fi_cpu_masked_l1_fwd(const MaskedL1* args, int per_frame, double* loss, int threads) {
  const int64_t items = args->batch * args->frames, group = per_frame ? 1 : args->frames;
  std::vector<double> errors(items), holes(items);
  for_frames(*args, threads, [&](int64_t item) {
    FI_DISPATCH(masked_l1_error(*args, item, &errors[item]))
    FI_DISPATCH(masked_l1_holes(*args, item, &holes[item]))
  });
  double sum = 0;
  for (int64_t first = 0; first < items; first += group) {
    double error = 0, hole = 0;
    for (int64_t item = first; item < first + group; ++item) error += errors[item], hole += holes[item];
    sum += error / (hole * args->channels);
  }
  *loss = sum / (group ? items / group : 0);
  return 0;
}

// doutput = dloss / (groups * C * holes of the group) * mask * sign(output - target).
FI_EXPORT int fi_cpu_masked_l1_bwd(const MaskedL1* args, int per_frame, double dloss, void* doutput, int threads) {
  const int64_t items = args->batch * args->frames, group = per_frame ? 1 : args->frames;
  std::vector<double> factors(items);
  for_frames(*args, threads, [&](int64_t item) { FI_DISPATCH(masked_l1_holes(*args, item, &factors[item])) });
  for (int64_t first = 0; first < items; first += group) {
    double hole = 0;
    for (int64_t item = first; item < first + group; ++item) hole += factors[item];
    const double factor = dloss / (hole * args->channels * (items / group));
    for (int64_t item = first; item < first + group; ++item) factors[item] = factor;
  }
  for_frames(*args, threads, [&](int64_t item) { FI_DISPATCH(masked_l1_bwd(*args, item, factors[item], doutput)) });
  return 0;
}
