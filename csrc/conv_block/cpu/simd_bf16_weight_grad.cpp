// The weight gradient of winograd.h from bfloat16 maps.
#include "conv_block/cpu/weight_grad.h"

namespace fi::FI_ISA {

void weight_grad_bf16(const WeightGrad& args, int64_t item) { weight_grad_item<Bf16>(args, item); }
void unpack_weight_grad_bf16(const WeightGrad& args, const Taps& dw, int64_t item) {
  dw.dtype == Dtype::float32 ? unpack_item<Bf16, float>(args, dw, item) : unpack_item<Bf16, Bf16>(args, dw, item);
}

}  // namespace fi::FI_ISA
