// The correlation of winograd.h between bfloat16 maps.
#include "conv_block/cpu/correlate.h"

namespace fi::FI_ISA {

void chunk_channels_bf16(int64_t* channels) { *channels = kChunk; }
void pack_weights_bf16(const Correlation& args, const Taps& w, int64_t item, void* packed) {
  pack_item<Bf16>(args, w, item, static_cast<Term<Bf16>*>(packed));
}
void correlate_bf16(const Correlation& args, int64_t item) { correlate_item<Bf16>(args, item); }

}  // namespace fi::FI_ISA
