// Entry points of the convolutions of thin.h: channels-last, maps float32 or bfloat16, all else float32. Each returns
// 0. Work is cut into pieces by sizes alone and sums are merged in a fixed order, so a result does not depend on the
// number of threads.
#include "conv_block/cpu/thin.h"

#include <algorithm>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"
#include "conv_block/cpu/grad_targets.h"

namespace fi {
namespace {

constexpr int kPieceRows = 8, kPieceColumns = 128;  // a band of 128 channels stays in the second cache
constexpr int64_t kSplits = 64;                     // most of the weight gradient's

// A plan and the pieces it points at.
struct Planned {
  ThinPlan plan{};
  std::vector<Piece> pieces;

  Planned(const ThinShape& shape, bool grid_is_wide) {
    plan.shape = shape;
    for (int axis = 0; axis < 3; ++axis) {
      plan.grid[axis] = grid_is_wide ? shape.wide[axis] : shape.thin[axis];
      plan.band[axis] = grid_is_wide ? shape.thin[axis] : shape.wide[axis];
      const Axis a{shape.kernel[axis], shape.stride[axis], shape.padding[axis], shape.dilation[axis]};
      plan.phases[axis] = make_phases(a, plan.grid[axis], grid_is_wide != bool(shape.thin_out), plan.phase[axis]);
    }
    for (int sample = 0; sample < shape.batch; ++sample)
      for (int t = 0; t < plan.phases[0]; ++t)
        for (int frame = 0; frame < plan.phase[0][t].count; ++frame) add_frame(sample, &plan.phase[0][t], frame);
    plan.pieces = pieces.data();
    plan.piece_count = static_cast<int64_t>(pieces.size());
  }
  Planned(const Planned&) = delete;

  void add_frame(int sample, const Phase* t, int frame) {
    for (int i = 0; i < plan.phases[1]; ++i) {
      const Phase* y = &plan.phase[1][i];
      for (int row = 0; row < y->count; row += kPieceRows) {
        for (int j = 0; j < plan.phases[2]; ++j) {
          const Phase* x = &plan.phase[2][j];
          for (int column = 0; column < x->count; column += kPieceColumns) {
            pieces.push_back({sample, frame, row, std::min(kPieceRows, y->count - row), column,
                              std::min(kPieceColumns, x->count - column), t, y, x});
          }
        }
      }
    }
  }
};

Taps taps_of(const void* weight, const int64_t* strides) {
  return {static_cast<float*>(const_cast<void*>(weight)),
          strides[0],
          strides[1],
          strides[2],
          strides[3],
          strides[4],
          Dtype::float32};
}

float* packed_memory(const ThinShape& s) {
  return scratch(Scratch::weights, s.kernel[0] * s.kernel[1] * s.kernel[2] * s.thin_channels * s.wide_channels);
}

void run(Widen& args, int dtype, const Taps& weight, int threads) {
  const bool half = static_cast<Dtype>(dtype) == Dtype::bfloat16;
  float* packed = packed_memory(args.plan->shape);
  if (half) {
    FI_DISPATCH_BF16(pack_widen_bf16(args, weight, packed))
  } else {
    FI_DISPATCH(pack_widen(args, weight, packed))
  }
  args.packed = packed;
  auto body = [&](int64_t piece, int) {
    if (half) {
      FI_DISPATCH_BF16(widen_bf16(args, piece))
    } else {
      FI_DISPATCH(widen(args, piece))
    }
  };
  parallel_for(args.plan->piece_count, threads, body);
}

void run(Narrow& args, int dtype, const Taps& weight, int threads) {
  const bool half = static_cast<Dtype>(dtype) == Dtype::bfloat16;
  float* packed = packed_memory(args.plan->shape);
  if (half) {
    FI_DISPATCH_BF16(pack_narrow_bf16(args, weight, packed))
  } else {
    FI_DISPATCH(pack_narrow(args, weight, packed))
  }
  args.packed = packed;
  auto body = [&](int64_t piece, int) {
    if (half) {
      FI_DISPATCH_BF16(narrow_bf16(args, piece))
    } else {
      FI_DISPATCH(narrow(args, piece))
    }
  };
  parallel_for(args.plan->piece_count, threads, body);
}

}  // namespace
}  // namespace fi

using namespace fi;

// wide [pixels, wide_channels] = correlation of the thin sources + bias; mean and var [wide_channels] of it where not
// null. strides: of the weight's thin, wide, t, y, x axes, in values; so in all that follow.
FI_EXPORT int fi_cpu_widen_fwd(const ThinShape* shape, const Source* sources, int count, const void* weight,
                               const int64_t* strides, const float* bias, void* y, float* mean, float* var, int dtype,
                               int threads) {
  const Planned planned(*shape, true);
  const int64_t channels = shape->wide_channels;
  std::vector<double> sums(mean ? planned.plan.piece_count * 3 * channels : 0);
  const bool past_caches = leaves_caches(y, planned.plan.pixels() * channels);
  Target target{y, channels, 0, bias, mean ? sums.data() : nullptr, nullptr, nullptr, past_caches};
  Widen args{&planned.plan, sources, count, &target, 1, nullptr};
  run(args, dtype, taps_of(weight, strides), threads);
  auto pixels = [&](int64_t i) { return static_cast<double>(planned.pieces[i].rows) * planned.pieces[i].columns; };
  if (mean) merge_stats(sums, pixels, channels, mean, var);
  return 0;
}

// The gradients of the wide sources from the thin G, the upstream source, to grads [count].
FI_EXPORT int fi_cpu_widen_dgrad(const ThinShape* shape, const Source* upstream, const void* weight,
                                 const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                 int dtype, int threads) {
  const Planned planned(*shape, true);
  GradTargets targets(sources, count, grads, planned.plan.pixels(), planned.plan.piece_count);
  for (Target& target : targets.list) {
    const bool plain = !target.source->mean && !target.source->relu && !target.daddend;
    if (plain) target.source = nullptr;
  }
  Widen args{&planned.plan, upstream, 1, targets.list.data(), targets.count(), nullptr};
  run(args, dtype, taps_of(weight, strides), threads);
  targets.merge();
  return 0;
}

// thin [pixels, thin_channels] = correlation of the wide sources + bias (or null): forward, or da where the wide source
// is G.
FI_EXPORT int fi_cpu_narrow(const ThinShape* shape, const Source* sources, int count, const void* weight,
                            const int64_t* strides, const float* bias, void* thin, int dtype, int threads) {
  const Planned planned(*shape, false);
  Narrow args{&planned.plan, sources, count, thin, bias, nullptr};
  run(args, dtype, taps_of(weight, strides), threads);
  return 0;
}

// dweight from the activations and G, whichever of them is the wide one.
FI_EXPORT int fi_cpu_thin_wgrad(const ThinShape* shape, const Source* wide, int wide_count, const Source* thin,
                                int thin_count, void* dweight, const int64_t* strides, int dtype, int threads) {
  const Planned planned(*shape, true);
  ThinWeightGrad args{&planned.plan, wide, thin, wide_count, thin_count, nullptr, 1};
  args.splits = std::clamp<int64_t>(planned.plan.piece_count / 4, 1, kSplits);
  args.product = scratch(Scratch::weights, args.splits * args.split_size());
  const bool half = static_cast<Dtype>(dtype) == Dtype::bfloat16;
  auto body = [&](int64_t split, int) {
    if (half) {
      FI_DISPATCH_BF16(thin_weight_grad_bf16(args, split))
    } else {
      FI_DISPATCH(thin_weight_grad(args, split))
    }
  };
  parallel_for(args.splits, threads, body);

  const Taps to = taps_of(dweight, strides);
  const int64_t channels = shape->wide_channels;
  auto merge = [&](int64_t row, int) {
    std::vector<float> sum(channels);
    for (int64_t split = 0; split < args.splits; ++split) {
      const float* part = args.product + split * args.split_size() + row * channels;
      for (int64_t c = 0; c < channels; ++c) sum[c] += part[c];
    }
    const int64_t tap = row / shape->thin_channels, y = tap / shape->kernel[2] % shape->kernel[1];
    float* out = static_cast<float*>(to.data) + row % shape->thin_channels * to.in +
                 tap / (shape->kernel[1] * shape->kernel[2]) * to.t + y * to.y + tap % shape->kernel[2] * to.x;
    for (int64_t c = 0; c < channels; ++c) out[c * to.out] = sum[c];
  };
  parallel_for(planned.plan.taps() * shape->thin_channels, worth(args.splits * args.split_size(), threads), merge);
  return 0;
}
