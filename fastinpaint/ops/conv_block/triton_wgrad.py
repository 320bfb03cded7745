"""The wgrad kernels of `conv_block`: both operands are made while they are read; split-K with a second stage."""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.conv_block.triton_gather import load_gradient, load_source, places


@triton.jit
def live_places(size, length, offset, STRIDE: tl.constexpr):
    """First q and number of q in [0, size) with STRIDE * q + offset in [0, length)."""
    low = (tl.maximum(-offset, 0) + STRIDE - 1) // STRIDE
    room = length - 1 - offset
    return low, tl.maximum(tl.minimum(tl.where(room < 0, 0, room // STRIDE + 1), size) - low, 0)


@triton.jit
def pixels(n, at_t, at_h, at_w, size):
    """64-bit index of places in a map of that size."""
    return ((n.to(tl.int64) * size[0] + at_t) * size[1] + at_h) * size[2] + at_w


@triton.jit
def conv_wgrad_kernel(
    x, mean, scale, shift, addend, dy, y, y_mean, dmean, dvar, partial,
    samples, small, large, padding, dilation, inverse_count, channels, out_channels, all_channels, splits,
    HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr, HAS_STATS: tl.constexpr,
    TRANSPOSED: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PACK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A share of dweight[tap, c, o] = sum_q a[at(q), c] G[at(q), o] for BLOCK_M rows (tap, c) and BLOCK_N channels o.

    q runs over the small map ``T, H, W``; the large one is read at ``stride * q + dilation * tap - padding``. Of a
    convolution a is large and G small, of a transposed one the other way round. Without PACK the rows are channels of
    one tap, and q only takes places where that tap lies inside: dead ones cost nothing. With PACK (convolutions only)
    rows run over taps and, inside a tap, over PACK >= C channels.

    saved: one source (x, addend ``[N, T, H, W, C]``; mean, scale, shift ``[C]``), y, y_mean. gradient in: dy, dmean,
    dvar. out: partial ``[S, taps, all_channels, C_out]`` float32, starting at the source's first channel; a split s
    takes its share of the steps and leaves its own sum.
    """
    n_blocks = tl.cdiv(out_channels, BLOCK_N)
    all_taps: tl.constexpr = TAPS[0] * TAPS[1] * TAPS[2]
    m_blocks = tl.cdiv(all_taps * PACK, BLOCK_M) if PACK > 0 else all_taps * tl.cdiv(channels, BLOCK_M)
    i_p = tl.program_id(0)
    i_n, i_m, i_s = i_p % n_blocks, i_p // n_blocks % m_blocks, i_p // (n_blocks * m_blocks)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = o_n < out_channels
    if PACK > 0:
        o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
        o_c, tap = o_m % PACK, o_m // PACK
        m_c = (o_c < channels) & (tap < all_taps)
    else:
        tap = i_m % all_taps
        o_c = i_m // all_taps * BLOCK_M + tl.arange(0, BLOCK_M)
        m_c = o_c < channels
    d_t = tap // (TAPS[1] * TAPS[2]) * dilation[0] - padding[0]
    d_h = tap // TAPS[2] % TAPS[1] * dilation[1] - padding[1]
    d_w = tap % TAPS[2] * dilation[2] - padding[2]
    if PACK > 0:
        low_t, low_h, low_w = 0, 0, 0
        live_t, live_h, live_w = small[0], small[1], small[2]
    else:
        low_t, live_t = live_places(small[0], large[0], d_t, STRIDE[0])
        low_h, live_h = live_places(small[1], large[1], d_h, STRIDE[1])
        low_w, live_w = live_places(small[2], large[2], d_w, STRIDE[2])

    blocks_t, blocks_h, blocks_w = tl.cdiv(live_t, BT), tl.cdiv(live_h, BH), tl.cdiv(live_w, BW)
    steps = samples * blocks_t * blocks_h * blocks_w
    share = tl.cdiv(steps, splits)
    o_t, o_h, o_w = places(BT, BH, BW)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(i_s * share, tl.minimum((i_s + 1) * share, steps)):
        n = i // (blocks_w * blocks_h * blocks_t)
        q_t = i // (blocks_w * blocks_h) % blocks_t * BT + o_t
        q_h = i // blocks_w % blocks_h * BH + o_h
        q_w = i % blocks_w * BW + o_w
        inside = (q_t < live_t) & (q_h < live_h) & (q_w < live_w)
        q_t, q_h, q_w = q_t + low_t, q_h + low_h, q_w + low_w
        at_small = pixels(n, q_t, q_h, q_w, small)
        if PACK > 0:
            at_t, at_h, at_w = q_t * STRIDE[0], q_h * STRIDE[1], q_w * STRIDE[2]
            i_t, i_h, i_w = at_t[:, None] + d_t[None, :], at_h[:, None] + d_h[None, :], at_w[:, None] + d_w[None, :]
            m_a = (i_t >= 0) & (i_t < large[0]) & (i_h >= 0) & (i_h < large[1]) & (i_w >= 0) & (i_w < large[2])
            m_a &= inside[:, None] & m_c[None, :]
            lanes = ((d_t * large[1] + d_h) * large[2] + d_w) * channels + o_c
            o_a = (pixels(n, at_t, at_h, at_w, large) * channels)[:, None] + lanes[None, :]
            o_g = (at_small * out_channels)[:, None] + o_n[None, :]
        else:
            at_large = pixels(n, q_t * STRIDE[0] + d_t, q_h * STRIDE[1] + d_h, q_w * STRIDE[2] + d_w, large)
            m_a = inside[:, None] & m_c[None, :]
            if TRANSPOSED:
                o_a, o_g = (at_small * channels)[:, None] + o_c[None, :], (at_large * out_channels)[:, None]
            else:
                o_a, o_g = (at_large * channels)[:, None] + o_c[None, :], (at_small * out_channels)[:, None]
            o_g += o_n[None, :]
        a = load_source(x, mean, scale, shift, addend, o_a, m_a, o_c, m_c, HAS_AFFINE, RELU, HAS_ADDEND)
        m_g = inside[:, None] & m_n[None, :]
        g = load_gradient(dy, y, y_mean, dmean, dvar, inverse_count, o_g, m_g, o_n, m_n, HAS_STATS)
        acc = tl.dot(tl.trans(a), g, acc, input_precision=PRECISION)
    row = (i_s * all_taps + tap) * all_channels + o_c
    tl.store(partial + row[:, None] * out_channels + o_n[None, :], acc, mask=m_c[:, None] & m_n[None, :])


@triton.jit
def finish_wgrad_kernel(
    partial, dweight, items, channels, out_channels, splits, d_c, d_o, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr
):
    """dweight (item (tap, c, o) at ``tap + c * d_c + o * d_o``) = the sum over S of partial ``[S, taps, C, C_out]``."""
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for s in range(0, splits, BLOCK_S):
        o_s = s + tl.arange(0, BLOCK_S)
        m_so = (o_s < splits)[:, None] & (o < items)[None, :]
        total += tl.sum(tl.load(partial + o_s.to(tl.int64)[:, None] * items + o[None, :], mask=m_so, other=0.0), 0)
    o_o, o_c, tap = o % out_channels, o // out_channels % channels, o // (out_channels * channels)
    tl.store(dweight + tap + o_c * d_c + o_o * d_o, total.to(dweight.dtype.element_ty), mask=o < items)


@triton.jit
def gradient_sums_kernel(
    dy, y, y_mean, dmean, dvar, partial, inverse_count, rows, channels, rows_per_program,
    HAS_STATS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partial ``[C, P]`` float32: the sum of G over this program's rows of dy ``[R, C]``, for dbias."""
    i_p = tl.program_id(0)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    total = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for i in range(0, rows_per_program, BLOCK_R):
        o_r = i_p.to(tl.int64) * rows_per_program + i + tl.arange(0, BLOCK_R)
        m_rc = (o_r < rows)[:, None] & m_c[None, :]
        o_g = o_r[:, None] * channels + o_c[None, :]
        g = load_gradient(dy, y, y_mean, dmean, dvar, inverse_count, o_g, m_rc, o_c, m_c, HAS_STATS)
        total += tl.sum(g.to(tl.float32), 0)
    tl.store(partial + o_c * tl.num_programs(0) + i_p, total, mask=m_c)


@triton.jit
def finish_bias_kernel(partial, dbias, parts, BLOCK: tl.constexpr):
    """dbias of one channel from partial ``[C, P]``."""
    i_c = tl.program_id(0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, parts, BLOCK):
        o = i + tl.arange(0, BLOCK)
        total += tl.load(partial + i_c * parts + o, mask=o < parts, other=0.0)
    tl.store(dbias + i_c, tl.sum(total).to(dbias.dtype.element_ty))
