// The weight gradient of winograd.h from float32 maps.
#include "conv_block/cpu/weight_grad.h"

namespace fi::FI_ISA {

void weight_grad(const WeightGrad& args, int64_t item) { weight_grad_item<float>(args, item); }
void unpack_weight_grad(const WeightGrad& args, const Taps& dw, int64_t item) { unpack_item<float, float>(args, dw, item); }

}  // namespace fi::FI_ISA
