// Products of pairs of bfloat16 values by AMX, for winograd.h.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace fi {

// c[i, j] (+)= sum over k of a[i * a_row + k * a_step] * b[k * b_row + j], where a product of two pairs is the sum of
// its two products. a_step or a_row is 1.
struct AmxProduct {
  const uint32_t *a, *b;
  float* c;
  int64_t a_row, a_step, b_row, c_row, rows, columns, terms;
  bool add;  // to what c holds
};
using MultiplyByAmx = void (*)(const AmxProduct&);

// Each level's; null where the processor has no AMX or it was not asked for.
FI_DECLARE_BF16(MultiplyByAmx multiply_by_amx())

// The one in use; null for products by vectors. Tests replace it.
MultiplyByAmx& amx();

}  // namespace fi
