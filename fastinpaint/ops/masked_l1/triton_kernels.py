"""The Triton kernels of `masked_l1`: see `reference` for the equations.

Maps come with any strides: ``[N, C, T, H, W]``, the mask with one channel. A group's positions are counted over
``[frames, H, W]``, with frames = T for a sample's group and 1 for a frame's. Sums are float32 and in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offsets(o_p, i_g, frames, groups_per_sample, height, width, stride_n, stride_t, stride_h, stride_w):
    """Where positions o_p of group i_g lie in a map, from its strides."""
    n = (i_g // groups_per_sample).to(tl.int64)
    t = (i_g % groups_per_sample * frames + o_p // (height * width)).to(tl.int64)
    return n * stride_n + t * stride_t + o_p // width % height * stride_h + o_p % width * stride_w


@triton.jit
def masked_l1_partial_kernel(
    output, target, mask, partial, frames, groups_per_sample, channels, height, width,
    o_n, o_c, o_t, o_h, o_w, t_n, t_c, t_t, t_h, t_w, m_n, m_t, m_h, m_w,
    ERRORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """This block's sums of mask * |output - target| and of mask, into partial ``[2, G, P]`` float32.

    The integers after width are the strides of output, target and mask. Without ERRORS only the mask is summed.
    """
    i_p, i_g = tl.program_id(0), tl.program_id(1)
    parts, groups = tl.num_programs(0), tl.num_programs(1)
    o_p = i_p * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < frames * height * width
    p_mask = mask + offsets(o_p, i_g, frames, groups_per_sample, height, width, m_n, m_t, m_h, m_w)
    b_mask = tl.load(p_mask, mask=m_p, other=0).to(tl.float32)
    tl.store(partial + (groups + i_g) * parts + i_p, tl.sum(b_mask))
    if ERRORS:
        p_output = output + offsets(o_p, i_g, frames, groups_per_sample, height, width, o_n, o_t, o_h, o_w)
        p_target = target + offsets(o_p, i_g, frames, groups_per_sample, height, width, t_n, t_t, t_h, t_w)
        error = tl.zeros((BLOCK,), dtype=tl.float32)
        for c in range(channels):
            b_output = tl.load(p_output + c * o_c, mask=m_p, other=0.0).to(tl.float32)
            error += tl.abs(b_output - tl.load(p_target + c * t_c, mask=m_p, other=0.0).to(tl.float32))
        tl.store(partial + i_g * parts + i_p, tl.sum(tl.where(m_p, error * b_mask, 0.0)))


@triton.jit
def masked_l1_finish_kernel(partial, loss, groups, parts, channels, BLOCK: tl.constexpr):
    """loss = 1/G sum_g errors_g / (C holes_g), from partial ``[2, G, P]``; one program."""
    total = 0.0
    for g in range(groups):
        errors = tl.zeros((BLOCK,), dtype=tl.float32)
        holes = tl.zeros((BLOCK,), dtype=tl.float32)
        for i in range(0, parts, BLOCK):
            o = i + tl.arange(0, BLOCK)
            errors += tl.load(partial + g * parts + o, mask=o < parts, other=0.0)
            holes += tl.load(partial + (groups + g) * parts + o, mask=o < parts, other=0.0)
        total += tl.sum(errors) / (tl.sum(holes) * channels)
    tl.store(loss, total / groups)


@triton.jit
def masked_l1_bwd_kernel(
    dloss, output, target, mask, partial, doutput, frames, groups_per_sample, channels, height, width, parts,
    o_n, o_c, o_t, o_h, o_w, t_n, t_c, t_t, t_h, t_w, m_n, m_t, m_h, m_w, d_n, d_c, d_t, d_h, d_w,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """doutput = dloss * sign(output - target) * mask / (C holes G).

    gradient in: dloss, one float32. saved: output, target, mask, and partial ``[2, G, P]``, whose second half is the
    sums of the mask. gradient out: doutput, written whole; the last five integers are its strides.
    """
    i_p, i_g = tl.program_id(0), tl.program_id(1)
    groups = tl.num_programs(1)
    holes = tl.zeros((BLOCK_P,), dtype=tl.float32)
    for i in range(0, parts, BLOCK_P):
        o = i + tl.arange(0, BLOCK_P)
        holes += tl.load(partial + (groups + i_g) * parts + o, mask=o < parts, other=0.0)
    o_p = i_p * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < frames * height * width
    p_mask = mask + offsets(o_p, i_g, frames, groups_per_sample, height, width, m_n, m_t, m_h, m_w)
    weight = tl.load(p_mask, mask=m_p, other=0).to(tl.float32) / (tl.sum(holes) * (channels * groups))
    weight *= tl.load(dloss)
    p_output = output + offsets(o_p, i_g, frames, groups_per_sample, height, width, o_n, o_t, o_h, o_w)
    p_target = target + offsets(o_p, i_g, frames, groups_per_sample, height, width, t_n, t_t, t_h, t_w)
    p_doutput = doutput + offsets(o_p, i_g, frames, groups_per_sample, height, width, d_n, d_t, d_h, d_w)
    for c in range(channels):
        delta = tl.load(p_output + c * o_c, mask=m_p, other=0.0).to(tl.float32)
        delta -= tl.load(p_target + c * t_c, mask=m_p, other=0.0).to(tl.float32)
        sign = (delta > 0.0).to(tl.float32) - (delta < 0.0).to(tl.float32)
        tl.store(p_doutput + c * d_c, (sign * weight).to(doutput.dtype.element_ty), mask=m_p)
