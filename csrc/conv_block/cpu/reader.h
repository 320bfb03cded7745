// How a source's activation is read, and what the convolutions of simd_*.cpp share.
#pragma once

#include "activation/cpu.h"
#include "common/cpu_vec.h"

// Left to itself GCC calls some of these as functions, with every vector through memory.
#define FI_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kLanes = FI_BYTES / 4;
constexpr int kChain = 64;  // products summed in a row before they join the rest: halves the rounding error of 256

// The same pointer. GCC then addresses all that is near it from it, instead of keeping a register for each offset.
FI_INLINE const float* opaque(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// Reads the activation of kLanes channels at a pixel; outside the map it is zero, as padding is of the activation. S is
// the storage of the maps, float or Bf16.
template <class S, bool AFFINE, bool RELU, bool ADDEND>
struct Reader {
  const S* x;
  const S* addend;
  int64_t channels;
  vfloat mean, scale, shift;

  Reader(const fi::Source& s, int64_t c)
      : x(static_cast<const S*>(s.x) + c),
        addend(ADDEND ? static_cast<const S*>(s.addend) + c : nullptr),
        channels(s.channels) {
    if (!AFFINE) return;
    mean = load(static_cast<const float*>(s.mean) + c);
    scale = load(static_cast<const float*>(s.scale) + c);
    shift = load(static_cast<const float*>(s.shift) + c);
  }
  FI_INLINE vfloat operator()(int64_t pixel) const {
    vfloat v = load(x + pixel * channels);
    if (AFFINE) v = (v - mean) * scale + shift;
    if (RELU) v = relu(v);
    if (ADDEND) v += load(addend + pixel * channels);
    return v;
  }
  template <bool INSIDE>
  FI_INLINE vfloat at(int64_t pixel) const {
    return INSIDE || pixel >= 0 ? (*this)(pixel) : vfloat{};
  }
};

// Calls f with a null pointer to the Reader that a source needs.
template <class S, class F>
void with_reader(const fi::Source& s, F f) {
  const int kind = (s.mean ? 4 : 0) + (s.relu ? 2 : 0) + (s.addend ? 1 : 0);
  switch (kind) {
    case 0:
      return f(static_cast<Reader<S, 0, 0, 0>*>(nullptr));
    case 1:
      return f(static_cast<Reader<S, 0, 0, 1>*>(nullptr));
    case 2:
      return f(static_cast<Reader<S, 0, 1, 0>*>(nullptr));
    case 3:
      return f(static_cast<Reader<S, 0, 1, 1>*>(nullptr));
    case 4:
      return f(static_cast<Reader<S, 1, 0, 0>*>(nullptr));
    case 5:
      return f(static_cast<Reader<S, 1, 0, 1>*>(nullptr));
    case 6:
      return f(static_cast<Reader<S, 1, 1, 0>*>(nullptr));
    default:
      return f(static_cast<Reader<S, 1, 1, 1>*>(nullptr));
  }
}

}  // namespace
