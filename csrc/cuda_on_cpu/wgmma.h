// wgmma m64nNk16 with A from registers and B by a descriptor of shared memory. The layouts are the PTX manual's: warp w
// of the warpgroup has rows 16 w ... 16 w + 15 of A and D, as in mma.sync (tensor_core.h), with D's columns in runs of
// eight. In B either k or (transposed) n is contiguous. B is read when the group is waited for, as late as the hardware
// may; until then the accumulators hold NaN. Stops on: a wgmma without a preceding wgmma.fence in its group, A's
// registers changed before the wait, a descriptor with another swizzle or outside the block's shared memory, bytes of B
// that come neither from a bulk copy nor from a fenced store_operand, warps of a warpgroup that issue different wgmma,
// and (scheduler.h) a thread that ends without waiting.
#pragma once

namespace emu {

__attribute__((no_sanitize("thread"), noinline)) inline bool is_shown(size_t piece) {
  return block.operands.data()[piece] == kShown;
}

// The 16 bytes of B at an address before the swizzle.
inline void read_piece(uint32_t address, uint16_t* to) {
  address ^= (address >> 7 & 7) << 4;
  if (address < kSharedBase || address + 16 > kSharedBase + block.shared_bytes)
    fail("a wgmma descriptor points outside shared memory");
  if (!is_shown((address - kSharedBase) / 16))
    fail("a wgmma reads shared memory that no bulk copy and no fence.proxy.async has shown it");
  memcpy(to, block.shared + (address - kSharedBase), 16);
}

// The 16 values along k of columns n and n + 1 of B, with even n and k contiguous: rows of 128 bytes are columns.
inline void read_columns(uint64_t b, int n, uint16_t (&columns)[2][16]) {
  uint32_t start = (b & 0x3FFF) << 4, stride = (b >> 32 & 0x3FFF) << 4;
  for (int i = 0; i < 2; ++i)
    for (int piece = 0; piece < 2; ++piece)
      read_piece(start + n / 8 * stride + (n % 8 + i) * 128 + piece * 16, columns[i] + piece * 8);
}

// The same with n contiguous: rows of 128 bytes are 64 columns of one k.
inline void read_transposed_columns(uint64_t b, int n, uint16_t (&columns)[2][16]) {
  uint32_t start = (b & 0x3FFF) << 4, leading = (b >> 16 & 0x3FFF) << 4, stride = (b >> 32 & 0x3FFF) << 4;
  uint16_t piece[8];
  for (int k = 0; k < 16; ++k) {
    read_piece(start + n / 64 * leading + k / 8 * stride + k % 8 * 128 + n % 64 / 8 * 16, piece);
    for (int i = 0; i < 2; ++i) columns[i][k] = piece[n % 8 + i];
  }
}

// The thread's two rows of A times B, added to its part of D.
template <class T, bool transposed_b>
void multiply_wgmma(const Wgmma& op, float* d) {
  float left[2][16], right[2][16];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) left[half][k] = fi::emulated_float(op.rows[half][k], T());
  for (int n = self().lane % 4 * 2; n < op.columns; n += 8) {
    uint16_t columns[2][16];
    transposed_b ? read_transposed_columns(op.b, n, columns) : read_columns(op.b, n, columns);
    for (int i = 0; i < 2; ++i)
      for (int k = 0; k < 16; ++k) right[i][k] = fi::emulated_float(columns[i][k], T());
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 2; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[half][k] * right[i][k];
        d[n / 8 * 4 + half * 2 + i] += sum;
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

template <class T, bool transposed_b>
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
  Wgmma op{d, a, {a[0], a[1], a[2], a[3]}, {}, b, columns, multiply_wgmma<T, transposed_b>};
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

// Waits until at most `pending` committed groups are in flight.
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
  emu::issue_wgmma<T, false>(&d[0][0], 128, a, b, line);
}

template <class T>
void wgmma_transposed_b_m64n64k16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, int line = __builtin_LINE()) {
  emu::issue_wgmma<T, true>(&d[0][0], 64, a, b, line);
}

inline void wgmma_settled(float (&)[16][4]) {}
inline void wgmma_settled(float (&)[8][4]) {}
inline void keep_packed(uint4&) {}

inline void store_operand(void* to, const uint4& value) {
  size_t at = static_cast<char*>(to) - emu::block.shared;
  if (at % 16 || at + 16 > emu::block.shared_bytes) emu::fail("an operand of wgmma is not 16 aligned shared bytes");
  *static_cast<uint4*>(to) = value;
  emu::Own own;
  emu::Fiber& me = emu::self();
  emu::block.operands[at / 16] = emu::kWritten + me.index;
  me.operands.push_back(at / 16);
}

inline void fence_proxy_async() {
  emu::Own own;
  emu::Fiber& me = emu::self();
  for (size_t piece : me.operands)
    if (emu::block.operands[piece] == emu::kWritten + me.index) emu::block.operands[piece] = emu::kShown;
  me.operands.clear();
}

}  // namespace fi
