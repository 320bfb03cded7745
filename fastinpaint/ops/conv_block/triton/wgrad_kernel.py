"""The wgrad kernel of `conv_block`: both operands are computed on load; split-K with a second stage."""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.conv_block.triton.finish_kernel import store_gradient_sum
from fastinpaint.ops.conv_block.triton.gather import (
    gradient_vectors,
    load_gradient,
    load_source,
    places,
    quarters,
    source_vectors,
)

# Accumulators with at least this many items are stored in quarters, because the addresses of the largest would spill.
# At 128 x 128 the quarters would spill, on sm_100.
QUARTERED = tl.constexpr(256 * 128)


@triton.jit
def live_places(size, length, offset, STRIDE: tl.constexpr):
    """First and number of the q in [0, size) with STRIDE * q + offset in [0, length)."""
    low = (tl.maximum(-offset, 0) + STRIDE - 1) // STRIDE
    room = length - 1 - offset
    return low, tl.maximum(tl.minimum(tl.where(room < 0, 0, room // STRIDE + 1), size) - low, 0)


@triton.jit
def pixel(n, at_t, at_h, at_w, size):
    """64-bit index of a position in a map of that size."""
    return ((n.to(tl.int64) * size[0] + at_t) * size[1] + at_h) * size[2] + at_w


@triton.jit
def row_blocks(channels, TAPS: tl.constexpr, BLOCK_M: tl.constexpr, PACK: tl.constexpr):
    """Number of blocks of a source's rows (tap, channel)."""
    all_taps: tl.constexpr = TAPS[0] * TAPS[1] * TAPS[2]
    if PACK > 0:
        return tl.cdiv(all_taps * PACK, BLOCK_M)
    return all_taps * tl.cdiv(channels, BLOCK_M)


@triton.jit
def sum_of_source(
    x, mean, scale, shift, addend, dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, i_n, i_m, i_s,
    samples, small, large, padding, dilation, inverse_count, first, channels, all_channels, out_channels, splits,
    HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr,
    HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, TRANSPOSED: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PACK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Split i_s of block (i_m, i_n) of one source's rows and of channels o; see `conv_wgrad_kernel`.

    It is long because its loop needs all of the offsets and masks before it in registers.
    """
    all_taps: tl.constexpr = TAPS[0] * TAPS[1] * TAPS[2]
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

    # offsets of a block's items from its first position, equal in every step
    o_t, o_h, o_w = places(BT, BH, BW)
    rows_small = (o_t * small[1] + o_h) * small[2] + o_w
    rows_large = (o_t * STRIDE[0] * large[1] + o_h * STRIDE[1]) * large[2] + o_w * STRIDE[2]
    if TRANSPOSED:
        o_a, o_g = (rows_small * channels)[:, None] + o_c[None, :], (rows_large * out_channels)[:, None] + o_n[None, :]
    else:
        o_a, o_g = (rows_large * channels)[:, None] + o_c[None, :], (rows_small * out_channels)[:, None] + o_n[None, :]
    if PACK > 0:
        lanes = ((d_t * large[1] + d_h) * large[2] + d_w) * channels + o_c
    of_source = source_vectors(mean, scale, shift, o_c, m_c, HAS_AFFINE)
    of_gradient = gradient_vectors(y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_n, m_n, HAS_STATS, HAS_NORM)

    blocks_t, blocks_h, blocks_w = tl.cdiv(live_t, BT), tl.cdiv(live_h, BH), tl.cdiv(live_w, BW)
    steps = samples * blocks_t * blocks_h * blocks_w
    share = tl.cdiv(steps, splits)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    first_step = i_s * share
    some_t, some_h, some_w = tl.maximum(blocks_t, 1), tl.maximum(blocks_h, 1), tl.maximum(blocks_w, 1)
    b_w, line = first_step % some_w, first_step // some_w
    b_h, frame = line % some_h, line // some_h
    b_t, n = frame % some_t, frame // some_t
    for _ in range(first_step, tl.minimum(first_step + share, steps)):
        q_t, q_h, q_w = b_t * BT, b_h * BH, b_w * BW
        inside = (q_t + o_t < live_t) & (q_h + o_h < live_h) & (q_w + o_w < live_w)
        q_t, q_h, q_w = q_t + low_t, q_h + low_h, q_w + low_w
        at_t, at_h, at_w = q_t * STRIDE[0], q_h * STRIDE[1], q_w * STRIDE[2]
        m_a = inside[:, None] & m_c[None, :]
        if PACK > 0:
            p_t, p_h, p_w = at_t + o_t * STRIDE[0], at_h + o_h * STRIDE[1], at_w + o_w * STRIDE[2]
            i_t, i_h, i_w = p_t[:, None] + d_t[None, :], p_h[:, None] + d_h[None, :], p_w[:, None] + d_w[None, :]
            # recomputed in every step, because the offsets of so many lanes would fill the registers
            o_x = (pixel(n, p_t, p_h, p_w, large) * channels)[:, None] + lanes[None, :]
            m_a &= (i_t >= 0) & (i_t < large[0]) & (i_h >= 0) & (i_h < large[1]) & (i_w >= 0) & (i_w < large[2])
        else:
            at_t, at_h, at_w = at_t + d_t, at_h + d_h, at_w + d_w
        at_a, at_g = pixel(n, at_t, at_h, at_w, large), pixel(n, q_t, q_h, q_w, small)
        if TRANSPOSED:
            at_a, at_g = at_g, at_a
        p_x, p_addend, p_y = x, addend, y
        if PACK == 0:
            o_x, p_x = o_a, x + at_a * channels
            if HAS_ADDEND:
                p_addend = addend + at_a * channels
        if HAS_STATS:
            p_y = y + at_g * out_channels
        m_g = inside[:, None] & m_n[None, :]
        g = load_gradient(dy + at_g * out_channels, p_y, of_gradient, o_g, m_g, HAS_STATS)
        a = load_source(p_x, p_addend, of_source, o_x, m_a, HAS_AFFINE, RELU, HAS_ADDEND)
        acc = tl.dot(tl.trans(a), g, acc, input_precision=PRECISION)
        # next block, w fastest, without division
        b_w += 1
        over = b_w == blocks_w
        b_w = tl.where(over, 0, b_w)
        b_h += over.to(tl.int32)
        over = b_h == blocks_h
        b_h = tl.where(over, 0, b_h)
        b_t += over.to(tl.int32)
        over = b_t == blocks_t
        b_t = tl.where(over, 0, b_t)
        n += over.to(tl.int32)
    row = (i_s * all_taps + tap) * all_channels + first + o_c
    if BLOCK_M * BLOCK_N >= QUARTERED:
        columns = quarters(acc)
        for j in tl.static_range(4):
            o_q = i_n * BLOCK_N + j * (BLOCK_N // 4) + tl.arange(0, BLOCK_N // 4)
            o_p = row[:, None] * out_channels + o_q[None, :]
            tl.store(partial + o_p, columns[j], mask=m_c[:, None] & (o_q < out_channels)[None, :])
    else:
        tl.store(partial + row[:, None] * out_channels + o_n[None, :], acc, mask=m_c[:, None] & m_n[None, :])


@triton.jit
def sum_of_product(
    x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, dy, y, y_mean, dmean, dvar,
    dvar_per_dscale, partial, i_p, samples, small, large, padding, dilation,
    inverse_count, channels0, channels1, out_channels, splits,
    first_of_1, m_blocks, n_blocks,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr,
    HAS_SOURCE1: tl.constexpr, HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr,
    TRANSPOSED: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PACK0: tl.constexpr, PACK1: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program i_p of `conv_wgrad_kernel`'s product: one split of one block of dweight, of either source."""
    i_n, i_m, i_s = i_p % n_blocks, i_p // n_blocks % m_blocks, i_p // (n_blocks * m_blocks)
    ALIKE: tl.constexpr = (
        (HAS_AFFINE0 == HAS_AFFINE1) and (RELU0 == RELU1) and not (HAS_ADDEND0 or HAS_ADDEND1 or PACK0 or PACK1)
    )
    if HAS_SOURCE1 and ALIKE:  # one loop for both sources: two loops spill on sm_100
        in_1 = i_m >= first_of_1
        mean, scale, shift = mean0, scale0, shift0
        if HAS_AFFINE0:
            mean, scale = tl.where(in_1, mean1, mean0), tl.where(in_1, scale1, scale0)
            shift = tl.where(in_1, shift1, shift0)
        sum_of_source(
            tl.where(in_1, x1, x0), mean, scale, shift, addend0, dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial,
            i_n, tl.where(in_1, i_m - first_of_1, i_m), i_s, samples, small, large, padding, dilation, inverse_count,
            tl.where(in_1, channels0, 0), tl.where(in_1, channels1, channels0), channels0 + channels1, out_channels,
            splits, HAS_AFFINE0, RELU0, HAS_ADDEND0, HAS_STATS, HAS_NORM, TRANSPOSED, STRIDE, TAPS,
            BT, BH, BW, BLOCK_M, BLOCK_N, PACK0, PRECISION,
        )  # fmt: skip
    elif HAS_SOURCE1:
        if i_m < first_of_1:
            sum_of_source(
                x0, mean0, scale0, shift0, addend0, dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, i_n, i_m, i_s,
                samples, small, large, padding, dilation, inverse_count,
                0, channels0, channels0 + channels1, out_channels, splits,
                HAS_AFFINE0, RELU0, HAS_ADDEND0, HAS_STATS, HAS_NORM, TRANSPOSED, STRIDE, TAPS,
                BT, BH, BW, BLOCK_M, BLOCK_N, PACK0, PRECISION,
            )  # fmt: skip
        else:
            sum_of_source(
                x1, mean1, scale1, shift1, addend1, dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial,
                i_n, i_m - first_of_1, i_s, samples, small, large, padding, dilation, inverse_count,
                channels0, channels1, channels0 + channels1, out_channels, splits,
                HAS_AFFINE1, RELU1, HAS_ADDEND1, HAS_STATS, HAS_NORM, TRANSPOSED, STRIDE, TAPS,
                BT, BH, BW, BLOCK_M, BLOCK_N, PACK1, PRECISION,
            )  # fmt: skip
    else:
        sum_of_source(
            x0, mean0, scale0, shift0, addend0, dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, i_n, i_m, i_s,
            samples, small, large, padding, dilation, inverse_count,
            0, channels0, channels0, out_channels, splits,
            HAS_AFFINE0, RELU0, HAS_ADDEND0, HAS_STATS, HAS_NORM, TRANSPOSED, STRIDE, TAPS,
            BT, BH, BW, BLOCK_M, BLOCK_N, PACK0, PRECISION,
        )  # fmt: skip


@triton.jit
def conv_wgrad_kernel(
    x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, dy, y, y_mean, dmean, dvar, dvar_per_dscale,
    partial, bias_partial, samples, small, large, padding, dilation, inverse_count, channels0, channels1, out_channels,
    splits, bias_parts, rows, rows_per_program,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr,
    HAS_SOURCE1: tl.constexpr, HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, HAS_BIAS: tl.constexpr,
    TRANSPOSED: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PACK0: tl.constexpr, PACK1: tl.constexpr, BIAS_R: tl.constexpr, BIAS_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A split of dweight[tap, c, o] = sum_q a[at(q), c] G[at(q), o] for BLOCK_M rows (tap, c) and BLOCK_N channels o.

    q runs over the small map ``T, H, W``. The large map is read at ``stride * q + dilation * tap - padding``. For a
    convolution a is large and G small; for a transposed one the reverse. Without PACK the rows are channels of one tap,
    and q runs only over positions where the tap lies inside, so dead positions cost nothing. With PACK (convolutions
    only) rows run over taps and, within a tap, over PACK >= C channels.

    Saved:
        x, addend (one or two sources): ``[N, T, H, W, C_i]``. mean, scale, shift: ``[C_i]`` float32.
        y, y_mean, dvar_per_dscale: as in `conv_dgrad_kernel`.
    Gradient in:
        dy, dmean, dvar: as in `conv_dgrad_kernel`.
    Out, all of it written:
        partial: ``[splits, taps, C_0 + C_1, C_out]`` float32, the sum of each split over its share of the steps.
        bias_partial: ``[C_out, bias_parts]`` float32, with HAS_BIAS. The last cdiv(C_out, BIAS_C) * bias_parts programs
            compute it as sums of G over rows ``[rows, C_out]``.
    """
    n_blocks = tl.cdiv(out_channels, BLOCK_N)
    m_blocks = row_blocks(channels0, TAPS, BLOCK_M, PACK0)
    first_of_1 = m_blocks
    if HAS_SOURCE1:
        m_blocks += row_blocks(channels1, TAPS, BLOCK_M, PACK1)
    i_p = tl.program_id(0)
    of_product = n_blocks * m_blocks * splits
    if HAS_BIAS:
        if i_p < of_product:
            sum_of_product(
                x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, dy, y, y_mean, dmean, dvar,
                dvar_per_dscale, partial, i_p, samples, small, large, padding, dilation, inverse_count,
                channels0, channels1, out_channels, splits, first_of_1, m_blocks, n_blocks,
                HAS_AFFINE0, RELU0, HAS_ADDEND0, HAS_AFFINE1, RELU1, HAS_ADDEND1, HAS_SOURCE1, HAS_STATS, HAS_NORM,
                TRANSPOSED, STRIDE, TAPS, BT, BH, BW, BLOCK_M, BLOCK_N, PACK0, PACK1, PRECISION,
            )  # fmt: skip
        else:
            o = i_p - of_product
            store_gradient_sum(
                dy, y, y_mean, dmean, dvar, dvar_per_dscale, bias_partial, o % bias_parts, o // bias_parts, bias_parts,
                inverse_count, rows, out_channels, rows_per_program, HAS_STATS, HAS_NORM, BIAS_R, BIAS_C,
            )  # fmt: skip
    else:
        sum_of_product(
            x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, dy, y, y_mean, dmean, dvar,
            dvar_per_dscale, partial, i_p, samples, small, large, padding, dilation, inverse_count,
            channels0, channels1, out_channels, splits, first_of_1, m_blocks, n_blocks,
            HAS_AFFINE0, RELU0, HAS_ADDEND0, HAS_AFFINE1, RELU1, HAS_ADDEND1, HAS_SOURCE1, HAS_STATS, HAS_NORM,
            TRANSPOSED, STRIDE, TAPS, BT, BH, BW, BLOCK_M, BLOCK_N, PACK0, PACK1, PRECISION,
        )  # fmt: skip
