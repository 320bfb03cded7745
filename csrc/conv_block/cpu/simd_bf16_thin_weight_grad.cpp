// The weight gradient of thin.h from bfloat16 maps.
#include "conv_block/cpu/thin_weight_grad.h"

namespace fi::FI_ISA {

void thin_weight_grad_bf16(const ThinWeightGrad& args, int64_t split) { weight_grad_split<Bf16>(args, split); }

}  // namespace fi::FI_ISA
