// Shuffles and ballots: each lane gives a value and reads another's.
#pragma once

inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
  emu::collective(0, mask, "__syncwarp", line, true);
}

template <class V>
V __shfl_xor_sync(unsigned mask, V value, int with, int line = __builtin_LINE()) {
  const V* values = emu::collective(value, mask, "__shfl_xor_sync", line);
  emu::Own own;
  return values[(emu::self().lane ^ with) & 31];
}

template <class V>
V __shfl_sync(unsigned mask, V value, int from, int line = __builtin_LINE()) {
  const V* values = emu::collective(value, mask, "__shfl_sync", line);
  emu::Own own;
  return values[from & 31];
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const int* values = emu::collective(predicate, mask, "__ballot_sync", line);
  emu::Own own;
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= values[lane] && (mask >> lane & 1) ? 1u << lane : 0u;
  return bits;
}

inline uint4 load_or_zero16(const void* from, bool predicate) {
  return predicate ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
}
inline uint32_t load_half_or_zero(const void* from, bool predicate) {
  return predicate ? *static_cast<const uint16_t*>(from) : 0;
}
inline float max_or_nan(float a, float b) { return a != a || a > b ? a : b; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
