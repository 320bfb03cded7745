#include "common/cpu_isa.h"

#include <cstdlib>
#include <cstring>

#if defined(FI_HAS_BF16) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fi {
namespace {

Isa best() {
#if defined(FI_HAS_AVX)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
#if defined(FI_HAS_BF16)
    if (__builtin_cpu_supports("avx512bf16")) return Isa::avx512bf16;
#endif
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::scalar;
}

// Whether the processor multiplies tiles of bfloat16 values, and the kernel lets this process do so.
bool has_amx() {
#if defined(FI_HAS_BF16) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kParts = 1u << 24 | 1u << 22;  // AMX-TILE and AMX-BF16
  constexpr long kAskFor = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kParts) != kParts) return false;
  return syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
#else
  return false;
#endif
}

Isa choose() {
  const Isa found = best();
  const char* asked = std::getenv("FASTINPAINT_CPU_ISA");
  if (!asked) return found;
  if (!std::strcmp(asked, "amx") && found == Isa::avx512bf16 && has_amx()) return Isa::amx;
  Isa level = found;
  if (!std::strcmp(asked, "scalar")) level = Isa::scalar;
  if (!std::strcmp(asked, "avx2")) level = Isa::avx2;
  if (!std::strcmp(asked, "avx512")) level = Isa::avx512;
  return level < found ? level : found;
}

}  // namespace

Isa isa() {
  static const Isa level = choose();
  return level;
}

}  // namespace fi

// The level in use: 0 scalar, 1 AVX2 with FMA, 2 AVX-512, 3 AVX-512 with products of bfloat16 pairs, 4 with tiles too.
FI_EXPORT int fi_cpu_isa() { return static_cast<int>(fi::isa()); }
