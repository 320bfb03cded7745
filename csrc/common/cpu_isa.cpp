#include "common/cpu_isa.h"

#include <cstdlib>
#include <cstring>

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

Isa choose() {
  const Isa found = best();
  const char* asked = std::getenv("FASTINPAINT_CPU_ISA");
  if (!asked) return found;
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

// The level in use: 0 scalar, 1 AVX2 with FMA, 2 AVX-512, 3 AVX-512 with products of bfloat16 pairs.
FI_EXPORT int fi_cpu_isa() { return static_cast<int>(fi::isa()); }
