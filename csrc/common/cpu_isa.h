// The instruction sets the CPU kernels are compiled for, and the one that runs here.
//
// A source with simd in its name is compiled once for each level, with FI_ISA naming the namespace its kernels live in
// and FI_BYTES the width of its vectors. The kernels of bfloat16 maps, in sources with simd_bf16 in their names, exist
// for the baseline and for AVX-512 with the product of bfloat16 pairs. Everything else is compiled once for the
// baseline. AMX adds tiles to the last of these: its products are in conv_block/cpu/simd_bf16_amx.cpp.
#pragma once

namespace fi {

enum class Isa { scalar, avx2, avx512, avx512bf16, amx };

// The best level this machine has, or the one that FASTINPAINT_CPU_ISA=scalar|avx2|avx512|avx512bf16|amx asks for if
// it is no better. AMX has to be asked for: its products have been emulated only.
Isa isa();

}  // namespace fi

#if defined(FI_HAS_AVX)
#define FI_DECLARE_EACH_ISA(declaration) \
  namespace scalar {                     \
  declaration;                           \
  }                                      \
  namespace avx2 {                       \
  declaration;                           \
  }                                      \
  namespace avx512 {                     \
  declaration;                           \
  }
// Calls the kernel of the level that runs here.
#define FI_DISPATCH(call)       \
  switch (::fi::isa()) {        \
    case ::fi::Isa::amx:        \
    case ::fi::Isa::avx512bf16: \
    case ::fi::Isa::avx512:     \
      avx512::call;             \
      break;                    \
    case ::fi::Isa::avx2:       \
      avx2::call;               \
      break;                    \
    default:                    \
      scalar::call;             \
      break;                    \
  }
#else
#define FI_DECLARE_EACH_ISA(declaration) \
  namespace scalar {                     \
  declaration;                           \
  }
#define FI_DISPATCH(call) scalar::call;
#endif

// The same for the kernels of bfloat16 maps.
#if defined(FI_HAS_BF16)
#define FI_DECLARE_BF16(declaration) \
  namespace scalar {                 \
  declaration;                       \
  }                                  \
  namespace avx512bf16 {             \
  declaration;                       \
  }
#define FI_DISPATCH_BF16(call) ::fi::isa() >= ::fi::Isa::avx512bf16 ? avx512bf16::call : scalar::call;
#else
#define FI_DECLARE_BF16(declaration) \
  namespace scalar {                 \
  declaration;                       \
  }
#define FI_DISPATCH_BF16(call) scalar::call;
#endif

#define FI_EXPORT extern "C" __attribute__((visibility("default")))
