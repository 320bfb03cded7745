// `narrow` of thin.h between float32 maps.
#include "conv_block/cpu/thin_narrow.h"

namespace fi::FI_ISA {

void pack_narrow(const Narrow& args, const Taps& w, float* packed) { pack_narrow_taps(args, w, packed); }
void narrow(const Narrow& args, int64_t piece) { narrow_piece<float>(args, piece); }

}  // namespace fi::FI_ISA
