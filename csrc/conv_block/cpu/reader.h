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

// Vectors that are written past the caches together. Half a line at a time takes several times as long: of AVX2's
// vectors `put` leaves two side by side, and `stream_line` writes both.
constexpr int kLineVectors = FI_BYTES == 32 ? 2 : 1;
constexpr int kLineLanes = kLineVectors * kLanes;

// The first n channels of a result: to the map or, past the caches, to `line`.
FI_INLINE void put(float* to, vfloat v, int64_t n, bool past_caches, float* line) {
  if (!past_caches) return store_n(to, v, n);
  kLineVectors == 1 ? stream(to, v) : store(line, v);
}
FI_INLINE void stream_line(float* to, const float* line) {
  for (int v = 0; v < kLineLanes; v += kLanes) stream(to + v, load(line + v));
}

// What clamps nothing.
inline vfloat no_floor() { return -__builtin_inff() - vfloat{}; }

// Reads the activation of kLanes channels at a pixel; outside the map it is zero, as padding is of the activation. S is
// the storage of the maps, float or Bf16. ReLU is a floor known at run time, and a source with an addend is AFFINE too,
// if need be by the identity: a reader for each combination would compile every transform eight times.
template <class S, bool AFFINE, bool ADDEND, bool CLAMP = true>
struct Reader {
  const S* x;
  const S* addend;
  int64_t channels;
  vfloat mean{}, scale, shift{}, floor;

  Reader(const fi::Source& s, int64_t c)
      : x(static_cast<const S*>(s.x) + c),
        addend(ADDEND ? static_cast<const S*>(s.addend) + c : nullptr),
        channels(s.channels),
        scale(1.0f - vfloat{}),
        floor(s.relu ? vfloat{} : no_floor()) {
    if (!AFFINE || !s.mean) return;
    mean = load(static_cast<const float*>(s.mean) + c);
    scale = load(static_cast<const float*>(s.scale) + c);
    shift = load(static_cast<const float*>(s.shift) + c);
  }
  FI_INLINE vfloat operator()(int64_t pixel) const {
    vfloat v = load(x + pixel * channels);
    if (AFFINE) v = (v - mean) * scale + shift;
    if (CLAMP) v = at_least(floor, v);
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
  if (s.addend) return f(static_cast<Reader<S, true, true>*>(nullptr));
  kGeneralOnly || s.mean ? f(static_cast<Reader<S, true, false>*>(nullptr))
                         : f(static_cast<Reader<S, false, false>*>(nullptr));
}

}  // namespace
