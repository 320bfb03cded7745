// What the next item will read, asked for a line at a time while the product of this one runs. For simd*.cpp.
//
// A product leaves loads unused. Without this a core computes, or waits for memory, but not both.
#pragma once

#include "conv_block/cpu/reader.h"

namespace {

constexpr int64_t kLine = 16;              // floats
// Of eight steps of a product: two lines a step of 28 vectors of sums, and one every other step of AVX2's twelve.
constexpr int64_t kAheadLines = FI_BYTES == 64 ? 16 : 4;
constexpr int64_t kAheadRow = kAheadLines * kLine;  // floats of a map in a row
constexpr int64_t kMostAhead = 80 << 10;   // floats: they share the second cache with this item's
constexpr int kMostRegions = 16;

// Lines for some steps of a product: with few output channels a tile has more lines than steps.
struct Lines {
  const float* base;
  int64_t row;  // floats from one row of lines to the next; 0: the same again

  static constexpr int64_t every = FI_BYTES == 64 ? 1 : 8;  // steps: in short ones their address would cost as much

  FI_INLINE void ask(int64_t k) const {
    constexpr int64_t kEach = kAheadLines * every / 8;
    const float* line = base + (k >> 3) * row + (k & 7) * kEach * kLine;
    for (int64_t i = 0; i < kEach; ++i) __builtin_prefetch(line + i * kLine, 0, 2);
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
    static constexpr int64_t every = 1;
    FI_INLINE void ask(int64_t) const {}
  };
  FI_INLINE None take(int64_t) { return {}; }
};

}  // namespace
