// `narrow` of thin.h between bfloat16 maps.
#include "conv_block/cpu/thin_narrow.h"

namespace fi::FI_ISA {

void pack_narrow_bf16(const Narrow& args, const Taps& w, float* packed) { pack_narrow_taps(args, w, packed); }
void narrow_bf16(const Narrow& args, int64_t piece) { narrow_piece<Bf16>(args, piece); }

}  // namespace fi::FI_ISA
