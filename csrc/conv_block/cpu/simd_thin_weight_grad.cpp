// The weight gradient of thin.h from float32 maps.
#include "conv_block/cpu/thin_weight_grad.h"

namespace fi::FI_ISA {

void thin_weight_grad(const ThinWeightGrad& args, int64_t split) { weight_grad_split<float>(args, split); }

}  // namespace fi::FI_ISA
