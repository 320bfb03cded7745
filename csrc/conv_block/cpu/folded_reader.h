// How the kernels of bfloat16 maps read a source's activation. For simd_bf16*.cpp.
#pragma once

#include <type_traits>

#include "conv_block/cpu/tiles.h"

namespace {

// As `Reader`, with the mean folded into the shift: what that rounds is far below bfloat16's own rounding.
template <bool AFFINE, bool RELU, bool ADDEND>
struct FoldedReader {
  const Bf16 *x, *addend;
  vfloat scale, shift;

  FoldedReader(const fi::Source& s, int64_t c)
      : x(static_cast<const Bf16*>(s.x) + c), addend(ADDEND ? static_cast<const Bf16*>(s.addend) + c : nullptr) {
    if (!AFFINE) return;
    scale = load(static_cast<const float*>(s.scale) + c);
    shift = load(static_cast<const float*>(s.shift) + c) - load(static_cast<const float*>(s.mean) + c) * scale;
  }
  template <bool INSIDE>
  FI_INLINE vfloat at(int64_t offset) const {
    if (!INSIDE && offset < 0) return vfloat{};
    vfloat v = load(x + offset);
    if (AFFINE) v = v * scale + shift;
    if (RELU) v = relu(v);
    if (ADDEND) v += load(addend + offset);
    return v;
  }
};

// Calls f with a null pointer to the FoldedReader that a source needs.
template <class F>
void with_folded_reader(const fi::Source& s, F f) {
  auto by = [&](auto affine, auto clamp) {
    constexpr bool kAffine = decltype(affine)::value, kRelu = decltype(clamp)::value;
    s.addend ? f(static_cast<FoldedReader<kAffine, kRelu, true>*>(nullptr))
             : f(static_cast<FoldedReader<kAffine, kRelu, false>*>(nullptr));
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (s.mean) return s.relu ? by(yes, yes) : by(yes, no);
  s.relu ? by(no, yes) : by(no, no);
}

// Where the pixels of a patch lie in a map, in values; negative outside it.
struct Offsets {
  int64_t at[4][4];
  bool inside;

  Offsets(const Patch& patch, int64_t channels, int size) : inside(patch.inside) {
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) at[i][j] = patch.pixel[i][j] * channels;
  }
};

}  // namespace
