"""The dgrad kernel of `conv_block`: G is computed on load, and the epilogue is the source's whole backward."""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.activation.triton_kernels import normalise
from fastinpaint.ops.conv_block.triton.gather import (
    REST,
    SPLIT_FROM,
    SUMS,
    add_sums,
    begin_tile,
    count_steps,
    gradient_vectors,
    load_gradient,
    next_step,
    quarters,
    share_of_steps,
    split_of_program,
    step_lanes,
    store_sums,
)


@triton.jit
def dgrad_epilogue(
    acc, x, mean, scale, shift, dx, daddend, partial, tile, parts, out_pixel, out_rows, inside, from_n, first, channels,
    all_channels, HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr,
):  # fmt: skip
    """Apply the source's backward to da, for a tile's columns from channel from_n on."""
    o_n = from_n + tl.arange(0, acc.shape[1])
    m_n = o_n < channels
    o_x = out_pixel * channels + (out_rows[:, None] * channels + o_n[None, :])
    m_x = inside[:, None] & m_n[None, :]
    # first round da to the maps' dtype, as a stock layer does
    da = acc.to(dx.dtype.element_ty)
    if HAS_ADDEND:
        tl.store(daddend + o_x, da, mask=m_x)
    dz = da.to(tl.float32)
    if HAS_AFFINE or RELU:
        b_x = tl.load(x + o_x, mask=m_x, other=0.0).to(tl.float32)
    if HAS_AFFINE:
        b_mean = tl.load(mean + o_n, mask=m_n, other=0.0)[None, :]
        b_scale = tl.load(scale + o_n, mask=m_n, other=0.0)[None, :]
        z = normalise(b_x, b_mean, b_scale, tl.load(shift + o_n, mask=m_n, other=0.0)[None, :])
    elif RELU:
        z = b_x
    if RELU:
        dz = tl.where(z <= 0.0, 0.0, dz)
    if HAS_AFFINE:
        dz = tl.where(inside[:, None], dz, 0.0)
        tl.store(partial + (first + o_n) * parts + tile, tl.sum(dz, 0), mask=m_n)
        sum_dz_x = tl.sum(tl.where(inside[:, None], dz * (b_x - b_mean), 0.0), 0)
        tl.store(partial + (all_channels + first + o_n) * parts + tile, sum_dz_x, mask=m_n)
        dz *= b_scale
    tl.store(dx + o_x, dz.to(dx.dtype.element_ty), mask=m_x)


@triton.jit
def dgrad_source_epilogue(
    acc, x, mean, scale, shift, dx, daddend, partial, tile, parts, out_pixel, out_rows, inside, from_n, first, channels,
    all_channels, HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr,
):  # fmt: skip
    """Apply the source's backward to a tile's da: dx, daddend and its sums, from channel ``first`` of partial on."""
    if acc.shape[1] >= SPLIT_FROM:
        columns = quarters(acc)
        for i in tl.static_range(4):
            dgrad_epilogue(
                columns[i], x, mean, scale, shift, dx, daddend, partial, tile, parts, out_pixel, out_rows, inside,
                from_n + i * (acc.shape[1] // 4), first, channels, all_channels, HAS_AFFINE, RELU, HAS_ADDEND,
            )  # fmt: skip
    else:
        dgrad_epilogue(
            acc, x, mean, scale, shift, dx, daddend, partial, tile, parts, out_pixel, out_rows, inside,
            from_n, first, channels, all_channels, HAS_AFFINE, RELU, HAS_ADDEND,
        )  # fmt: skip


@triton.jit
def conv_dgrad_kernel(
    dy, y, y_mean, dmean, dvar, dvar_per_dscale, weight,
    x0, mean0, scale0, shift0, dx0, daddend0, x1, mean1, scale1, shift1, dx1, daddend1, partial, shared, table,
    samples, in_size, out_size, step, inverse_count, out_channels, channels0, channels1, w_tap, w_k, w_n,
    HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr, HAS_SOURCE1: tl.constexpr,
    TIME: tl.constexpr, IN_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, TAPS: tl.constexpr, TAP_STEP: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PACK: tl.constexpr, EVEN_K: tl.constexpr, PRECISION: tl.constexpr, STAGE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """dgrad of one tile of x and BLOCK_N channels of one source, then the backward of its activation.

        G = dy + dmean / M + 2 dvar (y - mean) / M        da = gather(G) @ weight
        dz = da * 1[z > 0]    dx = dz * scale    daddend = da    sums of dz and of dz * (x - mean)

    The gather (`taps.Problem.backward`) reads G of size in_size and writes maps of x's size out_size. Maps have one
    dtype; sums are float32. Neighbouring programs share a tile of G, of both sources, so that it is read once into L2.

    Gradient in:
        dy: ``[N, T, H, W, C_out]``.
        dmean, dvar: ``[C_out]`` float32. With HAS_NORM dvar holds dscale, and dscale * dvar_per_dscale is dvar.
    Saved:
        y: as dy. y_mean, dvar_per_dscale: ``[C_out]`` float32.
        x (one or two): ``[N, T, H, W, C_i]``. mean, scale, shift: ``[C_i]`` float32.
        weight: item (tap, k, n) at ``tap * w_tap + k * w_k + n * w_n``; k over C_out, n over the sources' channels.
    Gradient out, all of it written:
        dx, daddend: as x. partial: ``[2, C_0 + C_1, P]`` float32, the sums of each tile.
    Out in STAGE `SUMS`, in `REST`: shared ``[SPLITS, P, BT * BH * BW, C_0 + C_1]`` float32, parts of da.
    """
    n_blocks = tl.cdiv(channels0, BLOCK_N)
    first_of_1 = n_blocks
    if HAS_SOURCE1:
        n_blocks += tl.cdiv(channels1, BLOCK_N)
    i_s, i_p, programs = split_of_program(STAGE, SPLITS)
    parts = programs // n_blocks
    tile, i_n = i_p // n_blocks, i_p % n_blocks
    channels, before, width = channels0, 0, channels0
    if HAS_SOURCE1:
        width = channels0 + channels1
        in_1 = i_n >= first_of_1
        i_n = tl.where(in_1, i_n - first_of_1, i_n)
        before = tl.where(in_1, channels0, 0)
        weight += before * w_n
        channels = tl.where(in_1, channels1, channels0)
    from_n = i_n * BLOCK_N
    o_n = from_n + tl.arange(0, BLOCK_N)
    m_n = o_n < channels
    in_pixel, out_pixel, in_rows, out_rows, at, inside, live, first = begin_tile(
        tile, table, samples, in_size, out_size, step, IN_STRIDE, OUT_STRIDE, BT, BH, BW
    )
    dy += in_pixel * out_channels
    if HAS_STATS:
        y += in_pixel * out_channels
    BLOCK_M: tl.constexpr = BT * BH * BW
    if STAGE == REST:
        acc = add_sums(shared, tile * BLOCK_M, parts * BLOCK_M, width, before + from_n, m_n, BLOCK_M, SPLITS)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        begin, end, odometer = share_of_steps(
            i_s, count_steps(live, out_channels, BLOCK_K, PACK), live, BLOCK_K, SPLITS
        )
        for i in range(begin, end):
            o_g, lanes, o_c, m_c, tap = step_lanes(
                i, odometer, live, first, at, in_rows, in_size, step, out_channels,
                TIME, TAPS, TAP_STEP, BLOCK_K, PACK, EVEN_K,
            )  # fmt: skip
            vectors = gradient_vectors(
                y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_c, m_c, HAS_STATS, HAS_NORM
            )
            g = load_gradient(dy, y, vectors, o_g, lanes, HAS_STATS)
            o_w = (tap * w_tap + o_c * w_k)[:, None] + (o_n * w_n)[None, :]
            b = tl.load(weight + o_w, mask=m_c[:, None] & m_n[None, :], other=0.0)
            acc = tl.dot(g, b, acc, input_precision=PRECISION)
            if PACK == 0:
                odometer = next_step(odometer, live, BLOCK_K)
    if STAGE == SUMS:
        store_sums(acc, shared, (i_s * parts + tile) * BLOCK_M, width, before + from_n, m_n)
    elif HAS_SOURCE1:
        if in_1:
            dgrad_source_epilogue(
                acc, x1, mean1, scale1, shift1, dx1, daddend1, partial, tile, parts, out_pixel, out_rows, inside,
                from_n, channels0, channels1, channels0 + channels1, HAS_AFFINE1, RELU1, HAS_ADDEND1,
            )  # fmt: skip
        else:
            dgrad_source_epilogue(
                acc, x0, mean0, scale0, shift0, dx0, daddend0, partial, tile, parts, out_pixel, out_rows, inside,
                from_n, 0, channels0, channels0 + channels1, HAS_AFFINE0, RELU0, HAS_ADDEND0,
            )  # fmt: skip
    else:
        dgrad_source_epilogue(
            acc, x0, mean0, scale0, shift0, dx0, daddend0, partial, tile, parts, out_pixel, out_rows, inside, from_n,
            0, channels0, channels0, HAS_AFFINE0, RELU0, HAS_ADDEND0,
        )  # fmt: skip
