// A convolution and the batch norm that follows it, by the statistics of the batch: one call forward and one backward.
// On small maps the kernels take no longer than the calls of Python that would lie between them. See
// batch_norm/cpu.cpp, and the entry points of the convolutions, for what each argument is.
#include <vector>

#include "batch_norm/cpu.h"
#include "conv_block/cpu/depthwise.h"
#include "conv_block/cpu/matmul.h"
#include "conv_block/cpu/winograd.h"

namespace fi {

enum class Kernels : int64_t { depthwise, matmul, winograd };

// What all calls of one convolution share.
struct Layer {
  Kernels kernels;
  const void *shape, *shape_back;             // of the forward correlation, and Winograd's of the data gradient
  const int64_t *strides, *strides_back;      // of the weight's axes, as either pass takes them
  int64_t channels;                           // of y
  int64_t dtype, weight_dtype;                // of the maps and of the weight, as `Dtype`
  double values;                              // a channel of y
};

struct LayerFwd {
  const Layer* layer;
  const void *weight, *bias;                  // bias: float, or null
  void* y;
  float *mean, *var, *scale, *shift;
  const float *norm_weight, *norm_bias;       // or null
  float *running_mean, *running_var;          // in place, or null
  int64_t* tracked;                           // counted up, or null
  double momentum, eps;
  int64_t threads, count;                     // count: of sources, which follow
};

struct LayerBwd {
  const Layer* layer;
  const void *weight, *dy, *y;
  const float *dmean, *dscale;                // of the vectors that forward wrote, or null: zeros
  const float *mean, *scale, *var;
  float* dnorm_weight;                        // or null
  void* dweight;                              // as the weight lies
  double eps;
  int64_t threads, count;                     // count: of sources, which follow, and then of their gradients
};

}  // namespace fi

using namespace fi;

FI_EXPORT int fi_cpu_layer_fwd(const LayerFwd* p) {
  const Layer& l = *p->layer;
  const auto* sources = reinterpret_cast<const Source*>(p + 1);
  const int count = static_cast<int>(p->count), threads = static_cast<int>(p->threads);
  const auto* direct = static_cast<const DirectShape*>(l.shape);
  const auto *weight = static_cast<const float*>(p->weight), *bias = static_cast<const float*>(p->bias);
  auto* y = static_cast<float*>(p->y);
  if (l.kernels == Kernels::depthwise)
    fi_cpu_depthwise_fwd(direct, sources, count, weight, l.strides, bias, y, p->mean, p->var, threads);
  else if (l.kernels == Kernels::matmul)
    fi_cpu_matmul_fwd(direct, sources, count, weight, l.strides, bias, y, p->mean, p->var, threads);
  else
    fi_cpu_winograd_fwd(static_cast<const ConvShape*>(l.shape), sources, count, weight, l.strides, bias, y, p->mean,
                        p->var, static_cast<int>(l.dtype), static_cast<int>(l.weight_dtype), threads);
  const double unbiased = l.values > 1 ? l.values / (l.values - 1) : l.values;
  const BatchNormFwd norm{p->mean,      p->var,     p->norm_weight, p->norm_bias, p->running_mean, p->running_var,
                          p->tracked,   p->scale,   p->shift,       l.channels,   0,               unbiased,
                          p->momentum,  p->eps};
  return fi_cpu_batch_norm_fwd(&norm);
}

FI_EXPORT int fi_cpu_layer_bwd(const LayerBwd* p) {
  const Layer& l = *p->layer;
  const int count = static_cast<int>(p->count), threads = static_cast<int>(p->threads);
  const auto* sources = reinterpret_cast<const Source*>(p + 1);
  const auto* grads = reinterpret_cast<const SourceGrads*>(sources + count);
  std::vector<float> vectors(2 * l.channels);
  Source g{p->dy, nullptr, nullptr, nullptr, nullptr, l.channels, 0};  // the gradient that reaches y
  if (p->dmean || p->dscale) {
    float *by_y = vectors.data(), *constant = by_y + l.channels;
    const BatchNormBwd norm{p->dmean, p->dscale,       p->scale,   p->var, by_y,     constant,
                            p->dnorm_weight, l.channels, 0, l.values, p->eps};
    fi_cpu_batch_norm_bwd(&norm);
    g = {p->y, p->mean, by_y, constant, p->dy, l.channels, 0};
  } else if (p->dnorm_weight) {
    for (int64_t c = 0; c < l.channels; ++c) p->dnorm_weight[c] = 0;
  }
  const auto* direct = static_cast<const DirectShape*>(l.shape);
  const auto* weight = static_cast<const float*>(p->weight);
  auto* dweight = static_cast<float*>(p->dweight);
  if (l.kernels == Kernels::depthwise)
    return fi_cpu_depthwise_bwd(direct, &g, weight, l.strides, sources, count, grads, dweight, l.strides, threads);
  if (l.kernels == Kernels::matmul)
    return fi_cpu_matmul_bwd(direct, &g, weight, l.strides_back, sources, count, grads, dweight, l.strides, threads);
  const int dtype = static_cast<int>(l.dtype), weight_dtype = static_cast<int>(l.weight_dtype);
  fi_cpu_winograd_dgrad(static_cast<const ConvShape*>(l.shape_back), &g, weight, l.strides_back, sources, count, grads,
                        dtype, weight_dtype, threads);
  return fi_cpu_winograd_wgrad(static_cast<const ConvShape*>(l.shape), sources, count, &g, dweight, l.strides, dtype,
                               weight_dtype, threads);
}
