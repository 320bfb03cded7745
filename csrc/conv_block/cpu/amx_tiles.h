// AMX's eight tiles of at most 16 rows of 64 bytes: the processor's, or with FI_EMULATE_AMX ones in memory, which abort
// where a processor would fault.
#pragma once

#include <cstdint>

#if defined(FI_EMULATE_AMX)
#include <cstdlib>
#include <cstring>
#define FI_HAS_AMX 1
#define FI_AMX
#define FI_TILE_LOAD(t, from, stride) emulated::load<t>(from, stride)
#define FI_TILE_STORE(t, to, stride) emulated::store<t>(to, stride)
#define FI_TILE_MULTIPLY(c, a, b) emulated::multiply<c, a, b>()
#elif defined(__AVX512BF16__)
#include <immintrin.h>
#define FI_HAS_AMX 1
#define FI_AMX __attribute__((target("amx-tile,amx-bf16")))
// Macros, as GCC writes the tile's number into its assembly.
#define FI_TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define FI_TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define FI_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)
#endif

#if defined(FI_HAS_AMX)
namespace {

// What LDTILECFG reads.
struct alignas(64) AmxShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};

  void set(int tile, int64_t r, int64_t b) {
    rows[tile] = static_cast<uint8_t>(r);
    bytes[tile] = static_cast<uint16_t>(b);
  }
};
static_assert(sizeof(AmxShapes) == 64, "the size that the processor reads");

#if defined(FI_EMULATE_AMX)
namespace emulated {

struct State {
  AmxShapes shapes;
  uint32_t tile[8][16][16];
  bool ready = false;
};
thread_local State state;

inline void require(bool right) {
  if (!right) std::abort();
}
template <int T>
int64_t rows() {
  require(state.ready && state.shapes.rows[T]);
  return state.shapes.rows[T];
}
template <int T>
void load(const void* from, int64_t stride) {
  std::memset(state.tile[T], 0, sizeof state.tile[T]);
  for (int64_t i = 0; i < rows<T>(); ++i)
    std::memcpy(state.tile[T][i], static_cast<const char*>(from) + i * stride, state.shapes.bytes[T]);
}
template <int T>
void store(void* to, int64_t stride) {
  for (int64_t i = 0; i < rows<T>(); ++i)
    std::memcpy(static_cast<char*>(to) + i * stride, state.tile[T][i], state.shapes.bytes[T]);
}
inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// TDPBF16PS in the order of Intel's description, but for denormal values, which the processor takes for zero.
template <int C, int A, int B>
void multiply() {
  const AmxShapes& s = state.shapes;
  require(rows<C>() == rows<A>() && s.bytes[C] == s.bytes[B] && s.bytes[A] == 4 * rows<B>());
  for (int64_t i = 0; i < rows<C>(); ++i) {
    for (int64_t k = 0; k < rows<B>(); ++k) {
      for (int64_t j = 0; j < s.bytes[C] / 4; ++j) {
        const uint32_t a = state.tile[A][i][k], b = state.tile[B][k][j];
        float sum = as_float(state.tile[C][i][j]);
        sum += as_float(a << 16) * as_float(b << 16);
        sum += as_float(a & 0xffff0000u) * as_float(b & 0xffff0000u);
        std::memcpy(&state.tile[C][i][j], &sum, sizeof sum);
      }
    }
  }
}

}  // namespace emulated

// All tiles become zero.
inline void configure_tiles(const AmxShapes* shapes) {
  for (int t = 0; t < 16; ++t) {
    emulated::require(shapes->rows[t] <= 16 && shapes->bytes[t] <= 64 && !shapes->rows[t] == !shapes->bytes[t]);
  }
  emulated::state.shapes = *shapes;
  emulated::state.ready = true;
  std::memset(emulated::state.tile, 0, sizeof emulated::state.tile);
}
inline void release_tiles() { emulated::state.ready = false; }
#else
FI_AMX inline void configure_tiles(const AmxShapes* shapes) {
  asm volatile("" : : "r"(shapes) : "memory");  // GCC's intrinsics don't say what they read
  _tile_loadconfig(shapes);
}
FI_AMX inline void release_tiles() { _tile_release(); }
#endif

}  // namespace
#endif
