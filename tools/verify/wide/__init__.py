"""Compiles the CPU kernels' AVX-512 code for processors with AVX2 alone, and runs tests on it.

    python -m tools.verify.wide [LEVEL] [PYTEST ARGUMENT ...]    # LEVEL: avx512 (usual), avx512bf16 or amx

Vectors have 64 bytes, as GCC splits them; what csrc writes in AVX-512's intrinsics is in avx512.h again, and AMX's
tiles are in memory. So every line of the arithmetic runs that such a processor runs, in the same order, though not its
instructions. The package in build/wide is this one, with that library.
"""
