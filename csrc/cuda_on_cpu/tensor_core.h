// ldmatrix and mma.sync, with the layouts of the PTX manual: lane = 4 * group + t.
//   A 16x16: a[0] row group, columns 2t and 2t+1; a[1] row group+8; a[2], a[3] the same rows, columns + 8
//   B 16x8:  b[0] rows 2t and 2t+1, column group; b[1] rows + 8
//   D 16x8:  d[0], d[1] row group, columns 2t and 2t+1; d[2], d[3] row group+8
#pragma once

namespace fi {

inline float emulated_float(uint16_t bits, __half) { return __half2float({bits}); }
inline float emulated_float(uint16_t bits, __nv_bfloat16) { return __bfloat162float({bits}); }

// d += a b for one 16x8 tile; T is __half or __nv_bfloat16. The last lane to come multiplies for the whole warp.
template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  struct Lane {
    uint32_t a[4], b[2];
    float d[4];
  } mine;
  memcpy(mine.a, a, sizeof a);
  memcpy(mine.b, b, sizeof b);
  memcpy(mine.d, d, sizeof d);
  auto multiply = [](Lane* lanes) {
    float left[16][16], right[8][16];  // right is transposed
    for (int lane = 0; lane < 32; ++lane) {
      int group = lane / 4, t = lane % 4;
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 4; ++i)
          left[group + 8 * (i & 1)][2 * t + half + 8 * (i >> 1)] =
              emulated_float(uint16_t(lanes[lane].a[i] >> 16 * half), T());
        for (int i = 0; i < 2; ++i)
          right[group][2 * t + half + 8 * i] = emulated_float(uint16_t(lanes[lane].b[i] >> 16 * half), T());
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + 8 * (i >> 1), column = lane % 4 * 2 + (i & 1);
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[column][k];
        lanes[lane].d[i] += sum;
      }
    }
  };
  const Lane* lanes = emu::collective(mine, ~0u, "mma.sync", line, false, multiply);
  emu::Own own;
  memcpy(d, lanes[emu::self().lane].d, sizeof d);
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
