// The weight gradient of winograd.h from bfloat16 maps.
#include "conv_block/cpu/weight_grad_pairs.h"

namespace fi::FI_ISA {

void weight_grad_bf16(const WeightGrad& args, int64_t item) { weight_grad_pairs_item(args, item); }
void unpack_weight_grad_bf16(const WeightGrad& args, const Taps& dw, int64_t item) {
  dw.dtype == Dtype::float32 ? unpack_squares<float>(args, dw, item) : unpack_squares<Bf16>(args, dw, item);
}

}  // namespace fi::FI_ISA
