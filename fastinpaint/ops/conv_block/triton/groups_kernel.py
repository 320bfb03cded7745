"""The kernels of grouped convolutions: depthwise by multiply-adds of maps, wider groups by products of their channels.

They take one source. Groups of one channel (DEPTHWISE) need no tensor cores: a program multiplies a tile of positions
and BLOCK_N channels by one weight per channel and tap. In wider groups, a program's columns and steps lie in one group.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.conv_block.triton.dgrad_kernel import dgrad_epilogue
from fastinpaint.ops.conv_block.triton.fwd_kernel import fwd_epilogue
from fastinpaint.ops.conv_block.triton.gather import (
    CACHE,
    begin_tile,
    gradient_vectors,
    load_gradient,
    load_source,
    next_step,
    places,
    source_vectors,
    split_program,
    step_lanes,
)


@triton.jit
def columns_of_program(columns, GROUP_N: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program's tile, first column and group, and the number of tiles. Neighbouring programs share a tile."""
    n_blocks = tl.cdiv(columns, BLOCK_N)
    i_p, from_n = tl.program_id(0) // n_blocks, tl.program_id(0) % n_blocks * BLOCK_N
    return i_p, from_n, from_n // GROUP_N, tl.num_programs(0) // n_blocks


@triton.jit
def begin_group(
    weight, live, group, from_n, w_group, w_n,
    DEPTHWISE: tl.constexpr, GROUP_K: tl.constexpr, GROUP_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A program's first weight, number of steps, first channel of its group, first step's channels and odometer."""
    weight += group * w_group + (from_n - group * GROUP_N) * w_n
    steps = live[1] * live[3] * live[5]
    if not DEPTHWISE:
        steps *= GROUP_K // BLOCK_K
    from_k = group * GROUP_K
    zero = tl.zeros((), dtype=tl.int32)
    return weight, steps, from_k, from_k + tl.arange(0, BLOCK_K), (zero, zero, zero, zero + from_k)


@triton.jit
def multiply_add(
    acc, a, weight, tap, o_c, m_c, from_k, w_tap, w_k, w_n,
    DEPTHWISE: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + a @ w for one tap; weight starts at the program's first column, and at the first channel of its group."""
    if DEPTHWISE:
        w = tl.load(weight + tap * w_tap + (o_c - from_k) * w_n, mask=m_c, other=0.0)
        acc += a.to(tl.float32) * w.to(tl.float32)[None, :]
    else:
        o_w = (tap * w_tap + (o_c - from_k) * w_k)[:, None] + (tl.arange(0, BLOCK_N) * w_n)[None, :]
        w = tl.load(weight + o_w)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
    return acc


@triton.jit
def groups_fwd_kernel(
    x, mean, scale, shift, addend, weight, bias, y, stats,
    table, samples, in_size, out_size, step, channels, out_channels, w_group, w_tap, w_k, w_n,
    HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATS: tl.constexpr, DEPTHWISE: tl.constexpr, GROUP_K: tl.constexpr, GROUP_N: tl.constexpr,
    TIME: tl.constexpr, IN_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, TAPS: tl.constexpr, TAP_STEP: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y = conv(a, weight) + bias for one tile of positions and BLOCK_N output channels (see `reference`).

    In:
        x, addend: ``[N, T, H, W, C]``. mean, scale, shift: ``[C]`` float32.
        weight: item (group, tap, k, n) at ``group * w_group + tap * w_tap + k * w_k + n * w_n``, with GROUP_K channels
            k and GROUP_N columns n per group. BLOCK_K and BLOCK_N divide these. Depthwise, w_n is w_group.
        bias: ``[C_out]``. table, step: see `gather.begin_tile`.
    Out:
        y: ``[N, T, H, W, C_out]``. With HAS_STATS, stats: as of `conv_fwd_kernel`.
    """
    tile, from_n, group, parts = columns_of_program(out_channels, GROUP_N, BLOCK_N)
    in_pixel, out_pixel, in_rows, out_rows, at, inside, live, first = begin_tile(
        tile, table, samples, in_size, out_size, step, IN_STRIDE, OUT_STRIDE, BT, BH, BW
    )
    x += in_pixel * channels
    if HAS_ADDEND:
        addend += in_pixel * channels
    weight, steps, from_k, o_k, odometer = begin_group(
        weight, live, group, from_n, w_group, w_n, DEPTHWISE, GROUP_K, GROUP_N, BLOCK_K
    )
    vectors = source_vectors(mean, scale, shift, o_k, o_k < channels, HAS_AFFINE)
    acc = tl.zeros((BT * BH * BW, BLOCK_N), dtype=tl.float32)
    for i in range(0, steps):
        o_x, lanes, o_c, m_c, tap = step_lanes(
            i, odometer, live, first, at, in_rows, in_size, step, channels, TIME, TAPS, TAP_STEP, BLOCK_K, 0,
            not DEPTHWISE,
        )  # fmt: skip
        if not DEPTHWISE:
            vectors = source_vectors(mean, scale, shift, o_c, m_c, HAS_AFFINE)
        a = load_source(x, addend, vectors, o_x, lanes, HAS_AFFINE, RELU, HAS_ADDEND)
        acc = multiply_add(acc, a, weight, tap, o_c, m_c, from_k, w_tap, w_k, w_n, DEPTHWISE, BLOCK_N, PRECISION)
        odometer = next_step(odometer, live, BLOCK_K)
    fwd_epilogue(
        acc, bias, y, stats, tile, parts, out_pixel, out_rows, inside, from_n, out_channels, HAS_BIAS, HAS_STATS
    )


@triton.jit
def groups_dgrad_kernel(
    dy, y, y_mean, dmean, dvar, dvar_per_dscale, weight, x, mean, scale, shift, dx, daddend, partial,
    table, samples, in_size, out_size, step, inverse_count, out_channels, channels, w_group, w_tap, w_k, w_n,
    HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, HAS_AFFINE: tl.constexpr, RELU: tl.constexpr,
    HAS_ADDEND: tl.constexpr, DEPTHWISE: tl.constexpr, GROUP_K: tl.constexpr, GROUP_N: tl.constexpr,
    TIME: tl.constexpr, IN_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, TAPS: tl.constexpr, TAP_STEP: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dgrad of one tile of x and BLOCK_N of its channels, then the backward of its activation.

    The equations, and all tensors but the weight, are those of `conv_dgrad_kernel` with one source. The weight is as of
    `groups_fwd_kernel`, with k over a group's channels of G, and n over its channels of x.
    """
    tile, from_n, group, parts = columns_of_program(channels, GROUP_N, BLOCK_N)
    in_pixel, out_pixel, in_rows, out_rows, at, inside, live, first = begin_tile(
        tile, table, samples, in_size, out_size, step, IN_STRIDE, OUT_STRIDE, BT, BH, BW
    )
    dy += in_pixel * out_channels
    if HAS_STATS:
        y += in_pixel * out_channels
    weight, steps, from_k, o_k, odometer = begin_group(
        weight, live, group, from_n, w_group, w_n, DEPTHWISE, GROUP_K, GROUP_N, BLOCK_K
    )
    vectors = gradient_vectors(
        y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_k, o_k < out_channels, HAS_STATS, HAS_NORM
    )
    acc = tl.zeros((BT * BH * BW, BLOCK_N), dtype=tl.float32)
    for i in range(0, steps):
        o_g, lanes, o_c, m_c, tap = step_lanes(
            i, odometer, live, first, at, in_rows, in_size, step, out_channels, TIME, TAPS, TAP_STEP, BLOCK_K, 0,
            not DEPTHWISE,
        )  # fmt: skip
        if not DEPTHWISE:
            vectors = gradient_vectors(
                y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_c, m_c, HAS_STATS, HAS_NORM
            )
        g = load_gradient(dy, y, vectors, o_g, lanes, HAS_STATS)
        acc = multiply_add(acc, g, weight, tap, o_c, m_c, from_k, w_tap, w_k, w_n, DEPTHWISE, BLOCK_N, PRECISION)
        odometer = next_step(odometer, live, BLOCK_K)
    dgrad_epilogue(
        acc, x, mean, scale, shift, dx, daddend, partial, tile, parts, out_pixel, out_rows, inside, from_n, 0, channels,
        channels, HAS_AFFINE, RELU, HAS_ADDEND,
    )  # fmt: skip


@triton.jit
def groups_wgrad_kernel(
    fixed, moving, partial,
    samples, small, large, padding, dilation, fixed_channels, moving_channels, tiles_per_split,
    DEPTHWISE: tl.constexpr, GROUP_M: tl.constexpr, GROUP_N: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A partial sum of dweight: one tap, BLOCK_M moving and BLOCK_N fixed channels of a group, and a split's positions.

        dweight[tap, m, n] = sum_q fixed[q, n] * moving[STRIDE * q + dilation * tap - padding, m]

    The fixed map is G and the moving one the activation, and the other way round if the convolution is transposed.
    Neighbouring programs differ in their tap, so they find what they read in L2.

    In:
        fixed: ``[N, *small, C_fixed]``. moving: ``[N, *large, C_moving]``. GROUP_N and GROUP_M are their channels per
            group. Depthwise, BLOCK_M is 1.
    Out:
        partial: ``[splits, taps, GROUP_M, C_fixed]`` float32.
    """
    taps: tl.constexpr = TAPS[0] * TAPS[1] * TAPS[2]
    n_blocks = tl.cdiv(fixed_channels, BLOCK_N)
    tap, i_p = tl.program_id(0) % taps, tl.program_id(0) // taps
    from_n, i_p = i_p % n_blocks * BLOCK_N, i_p // n_blocks
    m_blocks: tl.constexpr = GROUP_M // BLOCK_M
    from_m, i_s = i_p % m_blocks * BLOCK_M, i_p // m_blocks
    tap_t, tap_h, tap_w = tap // (TAPS[1] * TAPS[2]), tap // TAPS[2] % TAPS[1], tap % TAPS[2]
    move_t, move_h = tap_t * dilation[0] - padding[0], tap_h * dilation[1] - padding[1]
    move_w = tap_w * dilation[2] - padding[2]
    o_t, o_h, o_w = places(BT, BH, BW)
    o_n = from_n + tl.arange(0, BLOCK_N)
    m_n = o_n < fixed_channels
    if DEPTHWISE:
        o_m = o_n
        m_m = m_n
        acc = tl.zeros((BT * BH * BW, BLOCK_N), dtype=tl.float32)
    else:
        o_m = from_n // GROUP_N * GROUP_M + from_m + tl.arange(0, BLOCK_M)
        m_m = o_m < moving_channels
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(0, tiles_per_split):
        sample, t, h, w = split_program(i_s * tiles_per_split + i, small[0], small[1], small[2], BT, BH, BW)
        q_t, q_h, q_w = t + o_t, h + o_h, w + o_w
        inside = (q_t < tl.where(sample < samples, small[0], 0)) & (q_h < small[1]) & (q_w < small[2])
        i_t, i_h, i_w = q_t * STRIDE[0] + move_t, q_h * STRIDE[1] + move_h, q_w * STRIDE[2] + move_w
        inside &= (i_t >= 0) & (i_t < large[0]) & (i_h >= 0) & (i_h < large[1]) & (i_w >= 0) & (i_w < large[2])
        of_fixed = ((sample.to(tl.int64) * small[0] + q_t) * small[1] + q_h) * small[2] + q_w
        of_moving = ((sample.to(tl.int64) * large[0] + i_t) * large[1] + i_h) * large[2] + i_w
        f = tl.load(
            fixed + (of_fixed * fixed_channels)[:, None] + o_n[None, :], mask=inside[:, None] & m_n[None, :], other=0.0
        )
        m = tl.load(
            moving + (of_moving * moving_channels)[:, None] + o_m[None, :], mask=inside[:, None] & m_m[None, :],
            other=0.0, cache_modifier=CACHE,
        )  # fmt: skip
        if DEPTHWISE:
            acc += f.to(tl.float32) * m.to(tl.float32)
        else:
            acc = tl.dot(tl.trans(m), f, acc, input_precision=PRECISION)
    row = (i_s.to(tl.int64) * taps + tap) * GROUP_M + from_m
    if DEPTHWISE:
        tl.store(partial + row * fixed_channels + o_n, tl.sum(acc, 0), mask=m_n)
    else:
        o_rows = (row + tl.arange(0, BLOCK_M))[:, None] * fixed_channels
        tl.store(partial + o_rows + o_n[None, :], acc, mask=m_n[None, :])
