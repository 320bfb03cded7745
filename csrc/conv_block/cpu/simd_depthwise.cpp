// Forward and data gradient of depthwise.h.
#include "conv_block/cpu/depthwise_rows.h"

namespace fi::FI_ISA {

void depthwise(const Depthwise& d, int64_t item) {
  const ChannelGroup& group = d.groups[item % d.group_count];
  const int64_t number = item / d.group_count;
  const Piece3 piece = d.piece(number);
  const int64_t stride = (group.width + kLanes - 1) / kLanes * kLanes;
  const DepthwiseBand band(d, piece, stride);
  const int64_t row_floats = (d.columns + kBlock) * kLineLanes;
  float* results = scratch(Scratch::tiles, band.size() + row_floats);
  float* values = results + row_floats;
  band.fill(d.sources[group.source], group.of_source, group.width, values);

  const Target target = rows_of(d.targets[group.target], group);
  const ItemRows rows(d, target, group, piece, band, values);
  target.source ? run_rows<ActivationGradRows>(rows, number, results) : run_rows<StoreRows>(rows, number, results);
  end_stream();
}

}  // namespace fi::FI_ISA
