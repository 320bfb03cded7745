// `widen` of thin.h between float32 maps.
#include "conv_block/cpu/thin_widen.h"

namespace fi::FI_ISA {

void pack_widen(const Widen& args, const Taps& w, float* packed) { pack_widen_chunks(args, w, packed); }
void widen(const Widen& args, int64_t piece) { widen_piece<float>(args, piece); }

}  // namespace fi::FI_ISA
