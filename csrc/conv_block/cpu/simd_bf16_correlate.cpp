// The correlation of winograd.h between bfloat16 maps.
#include "conv_block/cpu/correlate.h"

namespace fi::FI_ISA {

void chunk_channels_bf16(int64_t* channels) { *channels = kChunk; }
void pack_weights_bf16(const Correlation& args, const Taps& w, int64_t item, void* packed) {
  auto* terms = static_cast<Pair*>(packed);
  w.dtype == Dtype::float32 ? pack_item<Bf16, float>(args, w, item, terms)
                            : pack_item<Bf16, Bf16>(args, w, item, terms);
}
void correlate_bf16(const Correlation& args, int64_t item) { correlate_item<Bf16>(args, item); }

}  // namespace fi::FI_ISA
