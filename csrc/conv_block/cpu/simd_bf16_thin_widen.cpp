// `widen` of thin.h between bfloat16 maps.
#include "conv_block/cpu/thin_widen.h"

namespace fi::FI_ISA {

void pack_widen_bf16(const Widen& args, const Taps& w, float* packed) { pack_widen_chunks(args, w, packed); }
void widen_bf16(const Widen& args, int64_t piece) { widen_piece<Bf16>(args, piece); }

}  // namespace fi::FI_ISA
