// How the kernels of bfloat16 maps read a source's activation. For simd_bf16*.cpp.
#pragma once

#include <type_traits>

#include "conv_block/cpu/tiles.h"

namespace {

// As `Reader`, with the mean folded into the shift: what that rounds is far below bfloat16's own rounding.
template <bool AFFINE, bool ADDEND, bool CLAMP = true>
struct FoldedReader {
  const Bf16 *x, *addend;
  vfloat scale, shift{}, floor;

  FoldedReader(const fi::Source& s, int64_t c)
      : x(static_cast<const Bf16*>(s.x) + c),
        addend(ADDEND ? static_cast<const Bf16*>(s.addend) + c : nullptr),
        scale(1.0f - vfloat{}),
        floor(s.relu ? vfloat{} : no_floor()) {
    if (!AFFINE || !s.mean) return;
    scale = load(static_cast<const float*>(s.scale) + c);
    shift = load(static_cast<const float*>(s.shift) + c) - load(static_cast<const float*>(s.mean) + c) * scale;
  }
  template <bool INSIDE>
  FI_INLINE vfloat at(int64_t offset) const {
    if (!INSIDE && offset < 0) return vfloat{};
    vfloat v = load(x + offset);
    if (AFFINE) v = v * scale + shift;
    if (CLAMP) v = at_least(floor, v);
    if (ADDEND) v += load(addend + offset);
    return v;
  }
};

// Calls f with a null pointer to the FoldedReader that a source needs.
template <class F>
void with_folded_reader(const fi::Source& s, F f) {
  if (s.addend) return f(static_cast<FoldedReader<true, true>*>(nullptr));
  kGeneralOnly || s.mean ? f(static_cast<FoldedReader<true, false>*>(nullptr))
                         : f(static_cast<FoldedReader<false, false>*>(nullptr));
}

// As `with_folded_reader`, of G: plain or affine in y with dy as its addend.
template <class F>
void with_folded_upstream(const fi::Source& s, F f) {
  s.mean ? f(static_cast<FoldedReader<true, true, false>*>(nullptr))
         : f(static_cast<FoldedReader<false, false, false>*>(nullptr));
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
