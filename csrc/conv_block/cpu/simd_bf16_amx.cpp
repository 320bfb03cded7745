// The products of amx.h. Emulated in tests; no processor has run them yet.
//
// A block of 2 x 2 tiles of sums, tiles 0 to 3, takes two tiles of a, 4 and 5, and two of b, 6 and 7, for each 16
// terms: one load for each product. Terms that are left over are a step of their own with narrower tiles.
#include "conv_block/cpu/amx.h"
#include "conv_block/cpu/amx_tiles.h"
#include "conv_block/cpu/transpose.h"
#include "conv_block/cpu/winograd.h"

namespace fi::FI_ISA {
#if defined(FI_HAS_AMX)
namespace {

constexpr int64_t kSide = 16;  // rows, pairs and floats of a tile
constexpr int64_t kPair = sizeof(uint32_t), kFloat = sizeof(float);

// The block's products with `step` terms at a time, of `terms`, a multiple of it. a's terms lie side by side.
FI_AMX void block(const AmxProduct& p, int64_t rows, int64_t columns, int64_t first, int64_t terms, int64_t step,
                  bool add) {
  const int64_t top = (rows + 1) / 2, low = rows - top;  // of equal height: what a product takes is its rows
  const int64_t left = columns < kSide ? columns : kSide, right = columns - left;
  AmxShapes shapes;
  auto set = [&](int tile, int64_t r, int64_t n) {
    if (r && n) shapes.set(tile, r, n * kPair);
  };
  set(0, top, left), set(1, top, right), set(2, low, left), set(3, low, right);
  set(4, top, step), set(5, low, low ? step : 0), set(6, left ? step : 0, left), set(7, right ? step : 0, right);
  configure_tiles(&shapes);

  const int64_t c_bytes = p.c_row * kFloat, a_bytes = p.a_row * kPair, b_bytes = p.b_row * kPair;
  float *c = p.c, *c_low = p.c + top * p.c_row;
  if (add) {
    FI_TILE_LOAD(0, c, c_bytes);
    if (right) FI_TILE_LOAD(1, c + kSide, c_bytes);
    if (low) FI_TILE_LOAD(2, c_low, c_bytes);
    if (low && right) FI_TILE_LOAD(3, c_low + kSide, c_bytes);
  }  // else they are zero: configured tiles are
  const uint32_t *a = p.a + first, *b = p.b + first * p.b_row;
  for (int64_t k = 0; k < terms; k += step, a += step, b += step * p.b_row) {
    FI_TILE_LOAD(4, a, a_bytes);
    FI_TILE_LOAD(6, b, b_bytes);
    FI_TILE_MULTIPLY(0, 4, 6);
    if (right) {
      FI_TILE_LOAD(7, b + kSide, b_bytes);
      FI_TILE_MULTIPLY(1, 4, 7);
    }
    if (low) {
      FI_TILE_LOAD(5, a + top * p.a_row, a_bytes);
      FI_TILE_MULTIPLY(2, 5, 6);
    }
    if (low && right) FI_TILE_MULTIPLY(3, 5, 7);
  }
  FI_TILE_STORE(0, c, c_bytes);
  if (right) FI_TILE_STORE(1, c + kSide, c_bytes);
  if (low) FI_TILE_STORE(2, c_low, c_bytes);
  if (low && right) FI_TILE_STORE(3, c_low + kSide, c_bytes);
}

// to[i * row + k] = a[i * a_row + k * a_step].
void gather_terms(const AmxProduct& p, uint32_t* to, int64_t row) {
  for (int64_t i = 0; i < p.rows; i += kSide) {
    for (int64_t k = 0; k < p.terms; k += kSide) {
#if FI_BYTES == 64
      if (p.rows - i >= kSide && p.terms - k >= kSide) {
        vfloat square[kSide];
        transpose(reinterpret_cast<const float*>(p.a + i * p.a_row + k * p.a_step), p.a_step, square);
        for (int64_t n = 0; n < kSide; ++n) store(reinterpret_cast<float*>(to + (i + n) * row + k), square[n]);
        continue;
      }
#endif
      for (int64_t n = i; n < i + kSide && n < p.rows; ++n)
        for (int64_t m = k; m < k + kSide && m < p.terms; ++m) to[n * row + m] = p.a[n * p.a_row + m * p.a_step];
    }
  }
}

FI_AMX void multiply(const AmxProduct& product) {
  AmxProduct p = product;
  if (p.a_step != 1) {
    const int64_t row = (p.terms + kSide - 1) / kSide * kSide + kSide;  // off a power of two, for the caches
    auto* gathered = reinterpret_cast<uint32_t*>(scratch(Scratch::results, p.rows * row));
    gather_terms(p, gathered, row);
    p.a = gathered;
    p.a_row = row;
    p.a_step = 1;
  }
  const int64_t whole = p.terms / kSide * kSide, rest = p.terms - whole;
  for (int64_t i = 0; i < product.rows; i += 2 * kSide) {
    const int64_t rows = product.rows - i < 2 * kSide ? product.rows - i : 2 * kSide;
    for (int64_t j = 0; j < product.columns; j += 2 * kSide) {
      const int64_t columns = product.columns - j < 2 * kSide ? product.columns - j : 2 * kSide;
      AmxProduct part = p;
      part.a += i * p.a_row;
      part.b += j;
      part.c += i * p.c_row + j;
      if (whole) block(part, rows, columns, 0, whole, kSide, p.add);
      if (rest) block(part, rows, columns, whole, rest, rest, p.add || whole);
    }
  }
  release_tiles();
}

}  // namespace

#if defined(FI_EMULATE_AMX)
MultiplyByAmx multiply_by_amx() { return multiply; }
#else
MultiplyByAmx multiply_by_amx() { return isa() == Isa::amx ? multiply : nullptr; }
#endif
#else
MultiplyByAmx multiply_by_amx() { return nullptr; }
#endif
}  // namespace fi::FI_ISA
