// wgmma m64nNk16 with A from registers and B described in shared memory. The layouts are the PTX manual's: warp w of
// the warpgroup has rows 16 w ... 16 w + 15 of A and D, each as mma.sync's A and D (tensor_core.h), D's columns in runs
// of eight. B is read when the group is waited for, as late as the hardware may; until then the accumulators hold NaN.
// Stops on: a wgmma that no wgmma.fence of its group precedes, A's registers changed before the wait, a descriptor of
// another form than 128-byte swizzle or outside the block's shared memory, warps of a warpgroup that issue different
// ones, and (scheduler.h) a thread that ends without waiting.
#pragma once

namespace emu {

// The 16 values along k of column n of B.
inline void read_column(uint64_t b, int n, uint16_t (&column)[16]) {
  uint32_t start = (b & 0x3FFF) << 4, stride = (b >> 32 & 0x3FFF) << 4;
  for (int piece = 0; piece < 2; ++piece) {
    uint32_t address = start + n / 8 * stride + n % 8 * 128 + piece * 16;
    address ^= (address >> 7 & 7) << 4;
    if (address < kSharedBase || address + 16 > kSharedBase + block.shared_bytes)
      fail("a wgmma descriptor points outside shared memory");
    memcpy(column + piece * 8, block.shared + (address - kSharedBase), 16);
  }
}

// The thread's two rows of A times B, added to its part of D.
template <class T>
void multiply_wgmma(const Wgmma& op, float* d) {
  float left[2][16], right[16];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) left[half][k] = fi::emulated_float(op.rows[half][k], T());
  int t = self().lane % 4;
  for (int n = 0; n < op.columns; ++n) {
    if (n % 8 / 2 != t) continue;
    uint16_t column[16];
    read_column(op.b, n, column);
    for (int k = 0; k < 16; ++k) right[k] = fi::emulated_float(column[k], T());
    for (int half = 0; half < 2; ++half) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += left[half][k] * right[k];
      d[n / 8 * 4 + half * 2 + n % 2] += sum;
    }
  }
}

// Every warp's n-th wgmma must be the same.
inline void agree(const Issued& mine) {
  Warp& warp = block.warps[self().warp];
  std::vector<Issued>& issued = block.issued[self().warp / 4];
  if (block.fibers.size() % 128) fail("wgmma in a block that is not made of warpgroups");
  size_t number = warp.wgmmas++;
  if (number == issued.size()) issued.push_back(mine);
  if (issued[number].line != mine.line || issued[number].b != mine.b)
    fail("wgmma at line " + std::to_string(mine.line) + ": the warps of a warpgroup gave different descriptors");
}

template <class T>
void issue_wgmma(float* d, int columns, const uint32_t (&a)[4], uint64_t b, int line) {
  Own own;
  Fiber& me = self();
  struct Given {
    uint32_t a[4];
    uint64_t b;
  } given{{a[0], a[1], a[2], a[3]}, b};
  if (!me.fenced) fail("wgmma at line " + std::to_string(line) + " without a wgmma.fence in its group");
  if (b >> 62 != 1 || b >> 46 & 0xFFFF) fail("a wgmma descriptor that is not of a 128-byte swizzle at base offset 0");
  const Given* all = collective(given, ~0u, "wgmma", line, false, [&](Given*) { agree({line, b}); });
  Wgmma op{d, a, {a[0], a[1], a[2], a[3]}, {}, b, columns, multiply_wgmma<T>};
  for (int from = 0; from < 4; ++from) {
    const Given& lane = all[me.lane / 4 * 4 + from];
    if (lane.b != b) fail("wgmma at line " + std::to_string(line) + ": the lanes of a warp gave different descriptors");
    for (int i = 0; i < 4; ++i)
      for (int half = 0; half < 2; ++half)
        op.rows[i & 1][2 * from + half + 8 * (i >> 1)] = uint16_t(lane.a[i] >> 16 * half);
  }
  if (!me.sums.count(d)) me.sums[d] = std::vector<float>(d, d + columns / 2);
  memset(d, 0xFF, columns / 2 * sizeof(float));
  me.open_wgmmas.push_back(op);
}

inline void retire_wgmma_group() {
  Fiber& me = self();
  std::vector<Wgmma> group;
  {
    Own own;
    group = std::move(me.wgmma_groups.front());
    me.wgmma_groups.erase(me.wgmma_groups.begin());
  }
  for (const Wgmma& op : group) {
    if (memcmp(op.a, op.given, sizeof op.given)) fail("registers of A changed before their wgmma was waited for");
    op.multiply(op, me.sums[op.d].data());
  }
  Own own;
  for (const Wgmma& op : group) {
    bool busy = false;
    for (const Wgmma& other : me.open_wgmmas) busy = busy || other.d == op.d;
    for (const std::vector<Wgmma>& later : me.wgmma_groups)
      for (const Wgmma& other : later) busy = busy || other.d == op.d;
    auto sums = me.sums.find(op.d);
    if (busy || sums == me.sums.end()) continue;
    memcpy(op.d, sums->second.data(), sums->second.size() * sizeof(float));
    me.sums.erase(sums);
  }
  group = {};
}

}  // namespace emu

namespace fi {

inline void wgmma_fence(int line = __builtin_LINE()) {
  emu::collective(0, ~0u, "wgmma.fence", line);
  emu::Own own;
  emu::self().fenced = true;
}

inline void wgmma_commit(int line = __builtin_LINE()) {
  emu::collective(0, ~0u, "wgmma.commit_group", line);
  emu::Own own;
  emu::Fiber& me = emu::self();
  me.wgmma_groups.push_back(std::move(me.open_wgmmas));
  me.open_wgmmas.clear();
  me.fenced = false;
}

// Waits until at most `pending` committed groups are at work.
template <int pending>
void wgmma_wait(int line = __builtin_LINE()) {
  emu::collective(0, ~0u, "wgmma.wait_group", line);
  while (emu::self().wgmma_groups.size() > pending) emu::retire_wgmma_group();
}

inline uint64_t descriptor(const void* tile) {
  return uint64_t((shared_address(tile) & 0x3FFFF) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

template <class T>
void wgmma_m64k16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, int line = __builtin_LINE()) {
  emu::issue_wgmma<T>(&d[0][0], 128, a, b, line);
}

inline void wgmma_settled(float (&)[16][4]) {}

}  // namespace fi
