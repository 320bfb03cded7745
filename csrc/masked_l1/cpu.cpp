// `masked_l1` on the CPU: one pass forward, one backward, no temporary. Equations in
// fastinpaint/ops/masked_l1/reference.py.
//
// output, target and doutput are [N, C, frames, pixels] with strides in values (pixels of a frame `pixel` apart);
// mask is dense [N, frames, pixels] with one channel. Sums are taken in double, one frame at a time.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/cpu_isa.h"
#include "common/cpu_parallel.h"

namespace fi {
namespace {

struct Shape {
  int64_t batch, channels, frames, pixels;
  int64_t stride_n, stride_c, stride_t, stride_p;

  int64_t frame(int64_t item) const { return item / frames * stride_n + item % frames * stride_t; }
};

struct Bf16 {
  uint16_t bits;
};

inline float value(float v) { return v; }
inline double value(double v) { return v; }
inline float value(Bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}
inline void assign(float& to, double v) { to = static_cast<float>(v); }
inline void assign(double& to, double v) { to = v; }
inline void assign(Bf16& to, double v) {
  const float f = static_cast<float>(v);
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// sums[frame] = (sum of mask * |output - target| over channels and pixels, sum of mask).
template <class D>
void fwd(const D* output, const D* target, const D* mask, const Shape& s, double* sums, int threads) {
  auto body = [&](int64_t item, int) {
    const D *o = output + s.frame(item), *t = target + s.frame(item), *m = mask + item * s.pixels;
    double error = 0, holes = 0;
    for (int64_t p = 0; p < s.pixels; ++p) {
      double pixel = 0;
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t at = p * s.stride_p + c * s.stride_c;
        pixel += std::fabs(value(o[at]) - value(t[at]));
      }
      error += value(m[p]) * pixel;
      holes += value(m[p]);
    }
    sums[2 * item] = error;
    sums[2 * item + 1] = holes;
  };
  parallel_for(s.batch * s.frames, threads, body);
}

// doutput = factors[frame] * mask * sign(output - target).
template <class D>
void bwd(const D* output, const D* target, const D* mask, const Shape& s, const double* factors, D* doutput,
         int threads) {
  auto body = [&](int64_t item, int) {
    const int64_t base = s.frame(item);
    const D* m = mask + item * s.pixels;
    for (int64_t p = 0; p < s.pixels; ++p) {
      const double weight = factors[item] * value(m[p]);
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t at = base + p * s.stride_p + c * s.stride_c;
        const auto difference = value(output[at]) - value(target[at]);
        const double sign = difference > 0 ? 1 : difference < 0 ? -1 : difference * 0;
        assign(doutput[at], weight * sign);
      }
    }
  };
  parallel_for(s.batch * s.frames, threads, body);
}

}  // namespace
}  // namespace fi

using namespace fi;

#define FI_WITH_DTYPE(call) \
  if (dtype == 0) {         \
    using D = float;        \
    call;                   \
  }                         \
  if (dtype == 1) {         \
    using D = double;       \
    call;                   \
  }                         \
  if (dtype == 2) {         \
    using D = Bf16;         \
    call;                   \
  }

// shape: batch, channels, frames, pixels, then the strides of n, c, t and a pixel. dtype: 0 float, 1 double, 2
// bfloat16.
FI_EXPORT int fi_cpu_masked_l1_fwd(const void* output, const void* target, const void* mask, const int64_t* shape,
                                   double* sums, int dtype, int threads) {
  Shape s;
  std::memcpy(&s, shape, sizeof s);
  FI_WITH_DTYPE(
      fwd(static_cast<const D*>(output), static_cast<const D*>(target), static_cast<const D*>(mask), s, sums, threads))
  return 0;
}

FI_EXPORT int fi_cpu_masked_l1_bwd(const void* output, const void* target, const void* mask, const int64_t* shape,
                                   const double* factors, void* doutput, int dtype, int threads) {
  Shape s;
  std::memcpy(&s, shape, sizeof s);
  FI_WITH_DTYPE(bwd(static_cast<const D*>(output), static_cast<const D*>(target), static_cast<const D*>(mask), s,
                    factors, static_cast<D*>(doutput), threads))
  return 0;
}
