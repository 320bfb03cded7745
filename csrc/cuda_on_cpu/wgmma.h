// wgmma m64n128k16 with both factors in shared memory, by descriptors without swizzle. The layouts are the PTX
// manual's: a core matrix is eight rows of 16 bytes; warp w of the warpgroup has rows 16 w ... 16 w + 15 of D, as in
// mma.sync (tensor_core.h), with D's columns in runs of eight. The factors are read when the group is waited for, as
// late as the hardware may, by one lane for its warp; until then the accumulators hold NaN. Stops on: a wgmma without a
// preceding wgmma.fence in its group, a descriptor with a swizzle or outside the block's shared memory, bytes that no
// completed bulk copy brought, warps of a warpgroup that issue different wgmma, warps of a warpgroup with different
// registers, more registers than a multiprocessor has, and (scheduler.h) a thread that ends without waiting.
#pragma once

namespace emu {

__attribute__((no_sanitize("thread"), noinline)) inline bool is_shown(size_t piece) {
  return block.operands.data()[piece] == kShown;
}

// The 16 bytes at an address: a row of a core matrix. The only access that thread sanitizer sees.
inline uint4 core_row(uint32_t address) {
  if (address < kSharedBase || address + 16 > kSharedBase + block.shared_bytes)
    fail("a wgmma descriptor points outside shared memory");
  if (!is_shown((address - kSharedBase) / 16)) fail("a wgmma reads shared memory that no bulk copy has brought");
  return *reinterpret_cast<const uint4*>(block.shared + (address - kSharedBase));
}

// Value i of a core row becomes to[i * step].
template <class T>
FI_UNSEEN void keep_row(uint4 row, float* to, int step) {
  uint16_t bits[8];
  memcpy(bits, &row, sizeof bits);
  for (int i = 0; i < 8; ++i) to[i * step] = fi::emulated_float(bits[i], T());
}

// The 16 values along k of `count` rows of A from row `first` on, or of columns of B.
template <class T, bool mn_major>
void read_factor(uint64_t descriptor, int first, int count, float (*to)[16]) {
  uint32_t start = (descriptor & 0x3FFF) << 4;
  uint32_t leading = (descriptor >> 16 & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  for (int eight = 0; eight < count; eight += 8)
    for (int k = 0; k < 16; ++k) {  // row k % 8 of a core matrix
      uint4 row = core_row(start + (first + eight) / 8 * stride + k / 8 * leading + k % 8 * 16);
      mn_major ? keep_row<T>(row, &to[eight][k], 16) : keep_row<T>(row, &to[eight + k % 8][k / 8 * 8], 1);
    }
}

template <class T, bool mn_major>
void read_factors(const Wgmma& op, Factors& to) {
  read_factor<T, mn_major>(op.a, self().warp % 4 * 16, 16, to.left);
  read_factor<T, mn_major>(op.b, 0, 128, to.right);
}

// The thread's two rows of A times B, added to its part of D.
FI_UNSEEN inline void multiply(const Factors& factors, unsigned lane, float* d) {
  for (int n = lane % 4 * 2; n < 128; n += 8)
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 2; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += factors.left[lane / 4 + half * 8][k] * factors.right[n + i][k];
        d[n / 8 * 4 + half * 2 + i] += sum;
      }
}

// Every warp's n-th wgmma must be the same.
inline void agree(const Issued& mine) {
  Warp& warp = block.warps[self().warp];
  std::vector<Issued>& issued = block.issued[self().warp / 4];
  if (self().warp / 4 >= block.fibers.size() / 128) fail("wgmma in warps that do not form a warpgroup");
  size_t number = warp.wgmmas++;
  if (number == issued.size()) issued.push_back(mine);
  if (issued[number].line != mine.line || issued[number].a != mine.a || issued[number].b != mine.b)
    fail("wgmma at line " + std::to_string(mine.line) + ": the warps of a warpgroup gave different descriptors");
}

template <class T, bool mn_major>
void issue_wgmma(float* d, uint64_t a, uint64_t b, int line) {
  constexpr int kSums = 64;
  Own own;
  Fiber& me = self();
  struct Given {
    uint64_t a, b;
  } given{a, b};
  if (!me.fenced) fail("wgmma at line " + std::to_string(line) + " without a wgmma.fence in its group");
  if ((a | b) >> 46) fail("a wgmma descriptor with a swizzle or a base offset");
  const Given* all = collective(given, ~0u, "wgmma", line, false, [&](Given*) { agree({line, a, b}); });
  for (int lane = 0; lane < 32; ++lane)
    if (all[lane].a != a || all[lane].b != b)
      fail("wgmma at line " + std::to_string(line) + ": the lanes of a warp gave different descriptors");
  if (!me.sums.count(d)) me.sums[d] = std::vector<float>(d, d + kSums);
  memset(d, 0xFF, kSums * sizeof(float));
  me.open_wgmmas.push_back({d, a, b, read_factors<T, mn_major>});
}

// Reads the factors of all groups but the newest `pending`, for the warp's lanes: they have the same.
inline void read_groups(size_t pending) {
  const Fiber& me = self();
  std::vector<Factors>& kept = block.warps[me.warp].factors;
  kept.clear();
  for (size_t i = 0; i + pending < me.wgmma_groups.size(); ++i)
    for (const Wgmma& op : me.wgmma_groups[i]) {
      kept.emplace_back();
      Kernels kernels;
      op.read(op, kept.back());
    }
}

// Adds the products of the oldest group, whose factors are the warp's from `next` on.
inline void retire_wgmma_group(size_t& next) {
  Own own;
  Fiber& me = self();
  std::vector<Wgmma> group = std::move(me.wgmma_groups.front());
  me.wgmma_groups.erase(me.wgmma_groups.begin());
  for (const Wgmma& op : group) multiply(block.warps[me.warp].factors[next++], me.lane, me.sums[op.d].data());
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
}

}  // namespace emu

namespace fi {

// Sets what the warpgroup has; a warp that does not follow is found when the block ends.
template <int registers, bool more>
void set_registers(int line = __builtin_LINE()) {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
  emu::collective(0, ~0u, "setmaxnreg", line);
  emu::Own own;
  emu::block.warps[emu::self().warp].registers = registers;
}

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
  emu::collective(0, ~0u, "wgmma.wait_group", line, false, [](int*) { emu::read_groups(pending); });
  size_t next = 0;
  while (emu::self().wgmma_groups.size() > pending) emu::retire_wgmma_group(next);
}

inline uint64_t descriptor(const void* operand, uint32_t along_k, uint32_t along_mn) {
  if (shared_address(operand) % 16 || along_k % 16 || along_mn % 16)
    emu::fail("a wgmma descriptor's address and offsets must be multiples of 16");
  return uint64_t((shared_address(operand) & 0x3FFFF) >> 4) | uint64_t(along_k >> 4) << 16 |
         uint64_t(along_mn >> 4) << 32;
}

template <class T, bool mn_major>
void wgmma_m64n128k16(float (&d)[16][4], uint64_t a, uint64_t b, int line = __builtin_LINE()) {
  emu::issue_wgmma<T, mn_major>(&d[0][0], a, b, line);
}

inline void wgmma_settled(float (&)[16][4]) {}

}  // namespace fi
