// ldmatrix and mma.sync, with the layouts of the PTX manual: lane = 4 * group + t. Of 16-bit factors:
//   A 16x16: a[0] row group, columns 2t and 2t+1; a[1] row group+8; a[2], a[3] the same rows, columns + 8
//   B 16x8:  b[0] rows 2t and 2t+1, column group; b[1] rows + 8
//   D 16x8:  d[0], d[1] row group, columns 2t and 2t+1; d[2], d[3] row group+8
// and of tf32, with the same D:
//   A 16x8:  a[0] row group, column t; a[1] row group+8; a[2], a[3] the same rows, column + 4
//   B 8x8:   b[0] row t, column group; b[1] row + 4
#pragma once

namespace fi {

inline float emulated_float(uint16_t bits, __half) { return __half2float({bits}); }
inline float emulated_float(uint16_t bits, __nv_bfloat16) { return __bfloat162float({bits}); }

// Rounds ties away from zero: adds half a unit of the last kept place to the magnitude, then truncates.
inline uint32_t round_to_tf32(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return v != v ? 0x7FFFFFFF : (bits + 0x1000) & ~0x1FFFu;
}

// A lane's operands and results of a product.
struct MmaLane {
  uint32_t a[4], b[2];
  float d[4];
};

// d += a b for one 16x8 tile and k columns of A. The last lane to arrive calls place(lane, its factors, left, right)
// for all lanes, which fills A and the transposed B, and multiplies for the whole warp.
template <int k, class F>
void multiply_warp(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line, F place) {
  MmaLane mine;
  memcpy(mine.a, a, sizeof a);
  memcpy(mine.b, b, sizeof b);
  memcpy(mine.d, d, sizeof d);
  auto multiply = [&](MmaLane* lanes) {
    float left[16][k], right[8][k];
    for (int lane = 0; lane < 32; ++lane) place(lane, lanes[lane], left, right);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + 8 * (i >> 1), column = lane % 4 * 2 + (i & 1);
        float sum = 0;
        for (int j = 0; j < k; ++j) sum += left[row][j] * right[column][j];
        lanes[lane].d[i] += sum;
      }
    }
  };
  const MmaLane* lanes = emu::collective(mine, ~0u, "mma.sync", line, false, multiply);
  emu::Own own;
  memcpy(d, lanes[emu::self().lane].d, sizeof d);
}

// T is __half or __nv_bfloat16.
template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  multiply_warp<16>(d, a, b, line, [](int lane, const MmaLane& from, float (&left)[16][16], float (&right)[8][16]) {
    int group = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i)
        left[group + 8 * (i & 1)][2 * t + half + 8 * (i >> 1)] = emulated_float(uint16_t(from.a[i] >> 16 * half), T());
      for (int i = 0; i < 2; ++i)
        right[group][2 * t + half + 8 * i] = emulated_float(uint16_t(from.b[i] >> 16 * half), T());
    }
  });
}

// tf32: the tensor cores read the sign, the exponent and ten mantissa bits of each factor.
inline void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  multiply_warp<8>(d, a, b, line, [](int lane, const MmaLane& from, float (&left)[16][8], float (&right)[8][8]) {
    auto seen = [](uint32_t bits) {
      float v;
      bits &= ~0x1FFFu;
      memcpy(&v, &bits, sizeof v);
      return v;
    };
    int group = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) left[group + 8 * (i & 1)][t + 4 * (i >> 1)] = seen(from.a[i]);
    for (int i = 0; i < 2; ++i) right[group][t + 4 * i] = seen(from.b[i]);
  });
}

// Loads four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
template <bool transposed>
void ldmatrix_x4(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emu::fail("an ldmatrix row is not 16-byte aligned");
  const uint16_t* rows[32];
  const void* const* given = emu::collective(row, ~0u, "ldmatrix", line);
  {
    emu::Own own;
    for (int i = 0; i < 32; ++i) rows[i] = static_cast<const uint16_t*>(given[i]);
  }
  int group = emu::self().lane / 4, t = emu::self().lane % 4;
  for (int i = 0; i < 4; ++i) {
    const uint16_t* const* m = rows + 8 * i;
    uint16_t low = transposed ? m[2 * t][group] : m[group][2 * t];
    uint16_t high = transposed ? m[2 * t + 1][group] : m[group][2 * t + 1];
    r[i] = low | uint32_t(high) << 16;
  }
}

}  // namespace fi
