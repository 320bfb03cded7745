"""A matrix product in Triton as in its tutorials: by pointers, and by tensor descriptors."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# The block by architecture: the tutorials' largest whose stages fit the chip's shared memory.
TILES = {"sm_90": (128, 256, 64), "sm_80": (128, 256, 32), "sm_89": (128, 128, 32)}
WARPS, STAGES = 8, 3


@triton.jit
def product_by_pointers(a, b, out, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """out = a b in bfloat16, ``[m, k]`` by ``[k, n]``, with contiguous rows. Sizes are multiples of the blocks."""
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    p_a = a + o_m[:, None] * k + o_k[None, :]
    p_b = b + o_k[:, None] * n + o_n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, k, BLOCK_K):
        acc = tl.dot(tl.load(p_a), tl.load(p_b), acc)
        p_a += BLOCK_K
        p_b += BLOCK_K * n
    tl.store(out + o_m[:, None] * n + o_n[None, :], acc.to(tl.bfloat16))


@triton.jit
def product_by_descriptors(a, b, out, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """The same, with tiles loaded by the copy engine."""
    of_a = tl.make_tensor_descriptor(a, [m, k], [k, 1], [BLOCK_M, BLOCK_K])
    of_b = tl.make_tensor_descriptor(b, [k, n], [n, 1], [BLOCK_K, BLOCK_N])
    of_out = tl.make_tensor_descriptor(out, [m, n], [n, 1], [BLOCK_M, BLOCK_N])
    i_m, i_n = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(0, k, BLOCK_K):
        acc = tl.dot(of_a.load([i_m, i]), of_b.load([i, i_n]), acc)
    of_out.store([i_m, i_n], acc.to(tl.bfloat16))


def compiled(kernel: triton.JITFunction, arch: str) -> bytes:
    """The cubin of a kernel for an architecture such as sm_90."""
    m, n, k = TILES[arch]
    signature = {**dict.fromkeys(("a", "b", "out"), "*bf16"), **dict.fromkeys(("m", "n", "k"), "i32")}
    signature |= dict.fromkeys(("BLOCK_M", "BLOCK_N", "BLOCK_K"), "constexpr")
    constants = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(6)}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": WARPS, "num_stages": STAGES, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", int(arch[3:]), 32), options=options).asm["cubin"]
