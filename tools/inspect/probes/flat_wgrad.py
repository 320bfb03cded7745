"""wgrad as flat matrix products, one per tap: a study that is interpreted and compiled, but not used.

It is for stride 1 and equal input and output size. The activation and G are rows ``[R, C]`` and ``[R, C_out]``, one per
position, with `gap` zero columns after each row of a frame and `gap` zero rows after each frame, where gap is the
dilation times half the kernel. A tap is then a constant offset of rows:

    dW[tap, c, o] = sum_r a[r + offset(tap), c] G[r, o]        offset = (k_h - K / 2) d (W + gap) + (k_w - K / 2) d

Positions outside the frame fall into a gap. Rows before the first or after the last are filled with zeros by the copy
engine. The loop has two copies and a product, without masks, divisions or a prologue.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TILE = (128, 256, 64)  # channels of the activation, channels of G, rows of a step
WARPS, STAGES = 8, 3


@triton.jit
def flat_wgrad_kernel(
    a, g, partial, rows, channels, out_channels, pitch, dilation, splits,
    TAPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One split of a block of one tap of dW.

    Saved: a ``[R, C]``. Gradient in: g ``[R, C_out]``; rows of a frame are `pitch` positions apart. Gradient out, all
        of
    it written: partial ``[splits, TAPS * TAPS, C, C_out]`` float32.
    """
    m_blocks, n_blocks = tl.cdiv(channels, BLOCK_M), tl.cdiv(out_channels, BLOCK_N)
    i_p = tl.program_id(0)
    i_n, i_m = i_p % n_blocks, i_p // n_blocks % m_blocks
    tap, i_s = i_p // (n_blocks * m_blocks) % (TAPS * TAPS), i_p // (n_blocks * m_blocks * TAPS * TAPS)
    offset = ((tap // TAPS - TAPS // 2) * pitch + tap % TAPS - TAPS // 2) * dilation
    of_a = tl.make_tensor_descriptor(a, [rows, channels], [channels, 1], [BLOCK_K, BLOCK_M])
    of_g = tl.make_tensor_descriptor(g, [rows, out_channels], [out_channels, 1], [BLOCK_K, BLOCK_N])
    share = tl.cdiv(tl.cdiv(rows, BLOCK_K), splits) * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for r in range(i_s * share, tl.minimum((i_s + 1) * share, rows), BLOCK_K):
        b_a = of_a.load([r + offset, i_m * BLOCK_M])
        b_g = of_g.load([r, i_n * BLOCK_N])
        acc = tl.dot(tl.trans(b_a), b_g, acc)
    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = (i_s * TAPS * TAPS + tap).to(tl.int64) * channels + o_m
    inside = (o_m < channels)[:, None] & (o_n < out_channels)[None, :]
    tl.store(partial + row[:, None] * out_channels + o_n[None, :], acc, mask=inside)


def flat(x: Tensor, gap: int) -> Tensor:
    """A map ``[N, C, H, W]`` as rows ``[N * (H + gap) * (W + gap), C]``, with zeros in the gaps."""
    padded = torch.nn.functional.pad(x, (0, gap, 0, gap))
    return padded.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()


def weight_gradient(a: Tensor, g: Tensor, taps: int, dilation: int, splits: int, tile: tuple[int, int, int]) -> Tensor:
    """dW ``[C_out, C, K, K]`` float32 of maps ``[N, C, H, W]`` and ``[N, C_out, H, W]``."""
    gap, channels, out_channels = dilation * (taps // 2), a.shape[1], g.shape[1]
    rows_a, rows_g = flat(a, gap), flat(g, gap)
    partial = torch.empty(splits, taps * taps, channels, out_channels, dtype=torch.float32, device=a.device)
    m, n, k = tile
    programs = splits * taps * taps * -(-channels // m) * -(-out_channels // n)
    flat_wgrad_kernel[(programs,)](
        rows_a, rows_g, partial, len(rows_a), channels, out_channels, a.shape[3] + gap, dilation, splits,
        TAPS=taps, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k,
    )  # fmt: skip
    return partial.sum(0).view(taps, taps, channels, out_channels).permute(3, 2, 0, 1)


def compiled(arch: str = "sm_90") -> bytes:
    """The cubin for an architecture."""
    names = ("rows", "channels", "out_channels", "pitch", "dilation", "splits")
    blocks = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), TILE, strict=True))
    signature = {"a": "*bf16", "g": "*bf16", "partial": "*fp32", **dict.fromkeys(names, "i32")}
    constants = {"TAPS": 3, **blocks}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 4, 5)}
    source = ASTSource(flat_wgrad_kernel, signature, constants, aligned)
    options = {"num_warps": WARPS, "num_stages": STAGES, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", int(arch[3:]), 32), options=options).asm["cubin"]
