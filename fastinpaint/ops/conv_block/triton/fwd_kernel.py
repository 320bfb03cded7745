"""The forward kernel of `conv_block`: an implicit GEMM with activations on load and statistics in the epilogue."""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.activation.triton_kernels import store_part
from fastinpaint.ops.conv_block.triton.gather import (
    REST,
    SPLIT_FROM,
    SUMS,
    add_sums,
    begin_tile,
    count_steps,
    load_source,
    next_step,
    quarters,
    share_of_steps,
    source_vectors,
    split_of_program,
    step_lanes,
    store_sums,
)


@triton.jit
def accumulate_source(
    acc, x, mean, scale, shift, addend, weight, in_pixel, live, first, at, in_rows, in_size, step, channels,
    o_n, m_n, w_tap, w_k, w_n, i_s,
    HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr, TIME: tl.constexpr, TAPS: tl.constexpr,
    TAP_STEP: tl.constexpr, BLOCK_K: tl.constexpr, PACK: tl.constexpr, EVEN_K: tl.constexpr, PRECISION: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """Return acc + a @ w over the live taps and the channels of one source, or over a part i_s of SPLITS of them."""
    x += in_pixel * channels
    if HAS_ADDEND:
        addend += in_pixel * channels
    steps = count_steps(live, channels, BLOCK_K, PACK)
    begin, end, odometer = share_of_steps(i_s, steps, live, BLOCK_K, SPLITS)
    for i in range(begin, end):
        o_x, inside, o_c, m_c, tap = step_lanes(
            i, odometer, live, first, at, in_rows, in_size, step, channels, TIME, TAPS, TAP_STEP, BLOCK_K, PACK, EVEN_K
        )
        vectors = source_vectors(mean, scale, shift, o_c, m_c, HAS_AFFINE)
        a = load_source(x, addend, vectors, o_x, inside, HAS_AFFINE, RELU, HAS_ADDEND)
        o_w = (tap * w_tap + o_c * w_k)[:, None] + (o_n * w_n)[None, :]
        b = tl.load(weight + o_w, mask=m_c[:, None] & m_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if PACK == 0:
            odometer = next_step(odometer, live, BLOCK_K)
    return acc


@triton.jit
def fwd_epilogue(
    acc, bias, y, stats, tile, parts, out_pixel, out_rows, inside, from_n, out_channels,
    HAS_BIAS: tl.constexpr, HAS_STATS: tl.constexpr,
):  # fmt: skip
    """Store y and the statistics of a tile's columns from channel from_n on."""
    o_n = from_n + tl.arange(0, acc.shape[1])
    m_n = o_n < out_channels
    if HAS_BIAS:
        acc += tl.load(bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    o_y = out_rows[:, None] * out_channels + o_n[None, :]
    tl.store(y + out_pixel * out_channels + o_y, acc.to(y.dtype.element_ty), mask=inside[:, None] & m_n[None, :])
    if HAS_STATS:
        rows = tl.sum(inside.to(tl.float32))
        value = tl.where(inside[:, None], acc, 0.0)
        tile_mean = tl.sum(value, 0) / tl.maximum(rows, 1.0)
        centred = tl.where(inside[:, None], value - tile_mean[None, :], 0.0)
        m2 = tl.sum(centred * centred, 0)
        store_part(stats, tile, parts, out_channels, from_n == 0, rows, tile_mean, m2, o_n, m_n)


@triton.jit
def conv_fwd_kernel(
    x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, weight, bias, y, stats, partial,
    table, samples, in_size, out_size, step, channels0, channels1, out_channels, w_tap, w_k, w_n,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr,
    HAS_SOURCE1: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATS: tl.constexpr,
    TIME: tl.constexpr, IN_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, TAPS: tl.constexpr, TAP_STEP: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PACK0: tl.constexpr, PACK1: tl.constexpr, EVEN_K0: tl.constexpr, EVEN_K1: tl.constexpr,
    PRECISION: tl.constexpr, STAGE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """y = conv(concat a_i, weight) + bias for one tile of positions and BLOCK_N output channels (see `reference`).

    Maps and weight have one dtype; products are summed in float32. Neighbouring programs share a tile of the sources,
    so that it is read once into L2.

    In:
        x, addend (one or two sources): ``[N, T, H, W, C_i]``. mean, scale, shift: ``[C_i]`` float32.
        weight: item (tap, k, n) at ``tap * w_tap + k * w_k + n * w_n``; k over the concatenated channels.
        bias: ``[C_out]``. table, step: see `gather.begin_tile`.
    Out:
        y: ``[N, T, H, W, C_out]``.
        With HAS_STATS, stats: the statistics of the P tiles of y before rounding, see `store_part`.
    Out in STAGE `SUMS`, in `REST`: partial ``[SPLITS, P, BT * BH * BW, C_out]`` float32. Only with one source.
    """
    n_blocks = tl.cdiv(out_channels, BLOCK_N)
    i_s, i_p, programs = split_of_program(STAGE, SPLITS)
    parts = programs // n_blocks
    tile = i_p // n_blocks
    from_n = i_p % n_blocks * BLOCK_N
    o_n = from_n + tl.arange(0, BLOCK_N)
    m_n = o_n < out_channels
    in_pixel, out_pixel, in_rows, out_rows, at, inside, live, first = begin_tile(
        tile, table, samples, in_size, out_size, step, IN_STRIDE, OUT_STRIDE, BT, BH, BW
    )
    BLOCK_M: tl.constexpr = BT * BH * BW
    if STAGE == REST:
        acc = add_sums(partial, tile * BLOCK_M, parts * BLOCK_M, out_channels, from_n, m_n, BLOCK_M, SPLITS)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        acc = accumulate_source(
            acc, x0, mean0, scale0, shift0, addend0, weight, in_pixel, live, first, at, in_rows, in_size, step,
            channels0, o_n, m_n, w_tap, w_k, w_n, i_s,
            HAS_AFFINE0, RELU0, HAS_ADDEND0, TIME, TAPS, TAP_STEP, BLOCK_K, PACK0, EVEN_K0, PRECISION, SPLITS,
        )  # fmt: skip
        if HAS_SOURCE1:
            acc = accumulate_source(
                acc, x1, mean1, scale1, shift1, addend1, weight + channels0 * w_k, in_pixel, live, first, at, in_rows,
                in_size, step, channels1, o_n, m_n, w_tap, w_k, w_n, i_s,
                HAS_AFFINE1, RELU1, HAS_ADDEND1, TIME, TAPS, TAP_STEP, BLOCK_K, PACK1, EVEN_K1, PRECISION, SPLITS,
            )  # fmt: skip
    if STAGE == SUMS:
        store_sums(acc, partial, (i_s * parts + tile) * BLOCK_M, out_channels, from_n, m_n)
    elif BLOCK_N >= SPLIT_FROM:
        columns = quarters(acc)
        for i in tl.static_range(4):
            fwd_epilogue(
                columns[i], bias, y, stats, tile, parts, out_pixel, out_rows, inside,
                from_n + i * (BLOCK_N // 4), out_channels, HAS_BIAS, HAS_STATS,
            )  # fmt: skip
    else:
        fwd_epilogue(
            acc, bias, y, stats, tile, parts, out_pixel, out_rows, inside, from_n, out_channels, HAS_BIAS, HAS_STATS,
        )  # fmt: skip
