"""The second stage of `conv_block`'s backward: one launch sums all partial results in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.activation.triton_kernels import finish_sources, sum_parts
from fastinpaint.ops.conv_block.triton.gather import gradient_vectors, load_gradient


@triton.jit
def store_gradient_sum(
    dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, i_p, i_c, parts, inverse_count, rows, channels,
    rows_per_program, HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """For dbias: partial ``[C, parts]`` float32, the sum of G over the i_p-th share of dy's rows ``[R, C]``."""
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    vectors = gradient_vectors(y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_c, m_c, HAS_STATS, HAS_NORM)
    total = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for i in range(0, rows_per_program, BLOCK_R):
        o_r = i_p.to(tl.int64) * rows_per_program + i + tl.arange(0, BLOCK_R)
        m_rc = (o_r < rows)[:, None] & m_c[None, :]
        o_g = o_r[:, None] * channels + o_c[None, :]
        g = load_gradient(dy, y, vectors, o_g, m_rc, HAS_STATS)
        total += tl.sum(g.to(tl.float32), 0)
    tl.store(partial + o_c * parts + i_p, total, mask=m_c)


@triton.jit
def gradient_sums_kernel(
    dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, inverse_count, rows, channels, rows_per_program,
    HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`store_gradient_sum` alone, when dweight is not needed."""
    store_gradient_sum(
        dy, y, y_mean, dmean, dvar, dvar_per_dscale, partial, tl.program_id(0), tl.program_id(1), tl.num_programs(0),
        inverse_count, rows, channels, rows_per_program, HAS_STATS, HAS_NORM, BLOCK_R, BLOCK_C,
    )  # fmt: skip


@triton.jit
def finish_weight(
    partial, dweight, i_p, items, channels, out_channels, splits, d_c, d_o, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Sum the i_p-th block of BLOCK items of dweight over the splits."""
    o = i_p * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for s in range(0, splits, BLOCK_S):
        o_s = s + tl.arange(0, BLOCK_S)
        m_so = (o_s < splits)[:, None] & (o < items)[None, :]
        total += tl.sum(tl.load(partial + o_s.to(tl.int64)[:, None] * items + o[None, :], mask=m_so, other=0.0), 0)
    o_o, o_c, tap = o % out_channels, o // out_channels % channels, o // (out_channels * channels)
    tl.store(dweight + tap + o_c * d_c + o_o * d_o, total.to(dweight.dtype.element_ty), mask=o < items)


@triton.jit
def conv_finish_kernel(
    sums, scale0, dmean0, dscale0, dshift0, scale1, dmean1, dscale1, dshift1, bias_sums, dbias,
    dscale, rstd, dnorm_weight, partial, dweight,
    channels0, all_channels, parts, sum_programs, bias_parts, bias_programs, norm_programs,
    items, in_channels, out_channels, splits, d_c, d_o,
    HAS_SUMS0: tl.constexpr, HAS_SUMS1: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Finish the partial sums of dgrad and wgrad, and compute the weight gradient of the following batch norm.

    Programs, in this order (none for a result that is not needed):
        sum_programs, one per source channel: dshift, dscale and dmean ``[C_i]`` float32 from sums ``[2, all_channels,
            parts]``.
        bias_programs, one per channel: dbias ``[C_out]`` from bias_sums ``[C_out, bias_parts]``.
        norm_programs, BLOCK channels each: dnorm_weight = dscale * rstd ``[C_out]``.
        the rest, BLOCK items each: dweight, item (tap, c, o) at ``tap + c * d_c + o * d_o``, from partial ``[splits,
            taps, in_channels, C_out]``; items = taps * in_channels * C_out.
    """
    i_p = tl.program_id(0)
    if i_p < sum_programs:
        finish_sources(
            sums, scale0, dmean0, dscale0, dshift0, scale1, dmean1, dscale1, dshift1, i_p, channels0, all_channels,
            parts, HAS_SUMS0, HAS_SUMS1, BLOCK_P,
        )  # fmt: skip
    elif i_p < sum_programs + bias_programs:
        if HAS_BIAS:
            i_c = i_p - sum_programs
            tl.store(
                dbias + i_c, sum_parts(bias_sums + i_c * bias_parts, bias_parts, BLOCK_P).to(dbias.dtype.element_ty)
            )
    elif i_p < sum_programs + bias_programs + norm_programs:
        if HAS_NORM:
            o_c = (i_p - sum_programs - bias_programs) * BLOCK + tl.arange(0, BLOCK)
            m_c = o_c < out_channels
            d = tl.load(dscale + o_c, mask=m_c, other=0.0) * tl.load(rstd + o_c, mask=m_c, other=0.0)
            tl.store(dnorm_weight + o_c, d.to(dnorm_weight.dtype.element_ty), mask=m_c)
    elif HAS_WEIGHT:
        finish_weight(
            partial, dweight, i_p - sum_programs - bias_programs - norm_programs, items, in_channels, out_channels,
            splits, d_c, d_o, BLOCK, BLOCK_S,
        )  # fmt: skip
