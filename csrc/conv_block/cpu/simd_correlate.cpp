// The correlation of winograd.h between float32 maps.
#include "conv_block/cpu/correlate.h"

namespace fi::FI_ISA {

void chunk_channels(int64_t* channels) { *channels = kChunk; }
void pack_weights(const Correlation& args, const Taps& w, int64_t item, void* packed) {
  pack_item<float, float>(args, w, item, static_cast<float*>(packed));
}
void correlate(const Correlation& args, int64_t item) { correlate_item<float>(args, item); }

}  // namespace fi::FI_ISA
