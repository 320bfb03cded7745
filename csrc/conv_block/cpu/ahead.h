// What the next item will read, asked for a line at a time while the product of this one runs. For simd*.cpp.
//
// A product of 14 x 32 sums leaves most loads unused. Without this a core computes, or waits for memory, but not both.
#pragma once

#include "conv_block/cpu/reader.h"

namespace {

constexpr int64_t kLine = 16;              // floats
constexpr int64_t kAheadRow = 16 * kLine;  // floats of a map in a row
constexpr int64_t kMostAhead = 80 << 10;   // floats: they share the second cache with this item's
constexpr int kMostRegions = 16;

// Lines for some steps of a product, two a step: with few output channels a tile has more lines than steps.
struct Lines {
  const float* base;
  int64_t row;  // floats from one row of lines to the next; 0: the same again

  FI_INLINE void ask(int64_t k) const {
    const float* line = base + (k >> 3) * row + (k & 7) * 2 * kLine;
    __builtin_prefetch(line, 0, 2);
    __builtin_prefetch(line + kLine, 0, 2);
  }
};

class Ahead {
 public:
  // here: any memory in the caches, asked for where nothing else is left.
  explicit Ahead(const float* here) : here_(here) {}
  // Channels [c, c + width) of a map at `pixels` pixels from `first` on.
  void add(const void* map, int64_t channels, int64_t c, int64_t width, int64_t first, int64_t pixels) {
    if (!map || count_ == kMostRegions || room_ <= 0) return;
    const float* from = static_cast<const float*>(map) + first * channels + c;
    const bool whole = width == channels;
    const int64_t step = whole ? kAheadRow : channels, rows = whole ? (pixels * channels + step - 1) / step : pixels;
    room_ -= pixels * width;
    for (int64_t k = 0; k < (whole ? 1 : width) && count_ < kMostRegions; k += kAheadRow) {
      regions_[count_++] = {from + k, step, rows};
    }
  }
  void add(const fi::Source& s, int64_t c, int64_t width, int64_t first, int64_t pixels) {
    add(s.x, s.channels, c, width, first, pixels);
    add(s.addend, s.channels, c, width, first, pixels);
  }
  // Those for the next `steps` steps.
  FI_INLINE Lines take(int64_t steps) {
    if (at_ == count_) return {here_, 0};
    Region& r = regions_[at_];
    const Lines lines{r.base, r.step};
    const int64_t rows = (steps + 7) / 8;
    r.base += rows * r.step;
    r.rows -= rows;
    if (r.rows <= 0) ++at_;
    return lines;
  }

 private:
  struct Region {
    const float* base;
    int64_t step, rows;
  };
  Region regions_[kMostRegions];
  int count_ = 0, at_ = 0;
  int64_t room_ = kMostAhead;
  const float* here_;
};

struct NothingAhead {
  struct None {
    FI_INLINE void ask(int64_t) const {}
  };
  FI_INLINE None take(int64_t) { return {}; }
};

}  // namespace
