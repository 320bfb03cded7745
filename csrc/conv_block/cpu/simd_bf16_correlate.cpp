// The correlation of winograd.h between bfloat16 maps.
#include "conv_block/cpu/correlate_pairs.h"

namespace fi::FI_ISA {

void chunk_channels_bf16(int64_t* channels) { *channels = kChunk; }
void pack_weights_bf16(const Correlation& args, const Taps& w, int64_t item, void* packed) {
  auto* terms = static_cast<Pair*>(packed);
  w.dtype == Dtype::float32 ? pack_pairs<float>(args, w, item, terms) : pack_pairs<Bf16>(args, w, item, terms);
}
void correlate_bf16(const Correlation& args, int64_t item) { correlate_pairs_item(args, item); }

}  // namespace fi::FI_ISA
