"""The Triton kernels of `batch_norm`. `reference` holds the equations.

Vectors ``[C]`` are dense. Statistics, scale, shift and their gradients are float32; other vectors have any dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.activation.triton_kernels import merge_parts


@triton.jit
def follow(running, o_c, m_c, value, momentum):
    """running += momentum * (value - running), in float64, because running may be float64 and vectors are short."""
    old = tl.load(running + o_c, mask=m_c, other=0.0).to(tl.float64)
    new = old + momentum * (value.to(tl.float64) - old)
    if running.dtype.element_ty == tl.float64:
        tl.store(running + o_c, new, mask=m_c)
    else:
        tl.store(running + o_c, new.to(tl.float32).to(running.dtype.element_ty), mask=m_c)


@triton.jit
def apply_norm(
    mean, var, weight, bias, running_mean, running_var, scale, shift, o_c, m_c, momentum, correction, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RUNNING: tl.constexpr,
):  # fmt: skip
    """Store scale and shift of channels o_c and update the running statistics; return scale and rstd."""
    rstd = 1.0 / tl.sqrt_rn(var + eps)
    b_scale, b_shift = rstd, tl.zeros_like(rstd)
    if HAS_WEIGHT:
        b_scale = rstd * tl.load(weight + o_c, mask=m_c, other=0.0).to(tl.float32)
    if HAS_BIAS:
        b_shift = tl.load(bias + o_c, mask=m_c, other=0.0).to(tl.float32)
    tl.store(scale + o_c, b_scale, mask=m_c)
    tl.store(shift + o_c, b_shift, mask=m_c)
    if HAS_RUNNING:
        follow(running_mean, o_c, m_c, mean, momentum)
        follow(running_var, o_c, m_c, var.to(tl.float64) * correction, momentum)
    return b_scale, rstd


@triton.jit
def batch_norm_fwd_kernel(
    mean, var, weight, bias, running_mean, running_var, tracked, total, scale, shift,
    channels, count, momentum, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RUNNING: tl.constexpr, HAS_TRACKED: tl.constexpr,
    HAS_TOTAL: tl.constexpr, CUMULATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scale and shift of all channels, and the running statistics in place, by one program of one warp.

    total: a float32 scalar that replaces count. CUMULATIVE: momentum is 1 / tracked. With a single warp all threads
    read `tracked` before it is incremented.
    """
    share = tl.full([], 0.0, dtype=tl.float64) + momentum
    if HAS_TRACKED:
        batches = tl.load(tracked) + 1
        if CUMULATIVE:
            share = 1.0 / batches.to(tl.float64)
        tl.store(tracked, batches)
    values = tl.full([], 0.0, dtype=tl.float64) + count
    if HAS_TOTAL:
        values = tl.load(total).to(tl.float64)
    correction = values / (values - 1.0)
    for i in range(0, channels, BLOCK):
        o_c = i + tl.arange(0, BLOCK)
        m_c = o_c < channels
        b_mean, b_var = tl.load(mean + o_c, mask=m_c, other=0.0), tl.load(var + o_c, mask=m_c, other=1.0)
        apply_norm(
            b_mean, b_var, weight, bias, running_mean, running_var, scale, shift, o_c, m_c, share, correction, eps,
            HAS_WEIGHT, HAS_BIAS, HAS_RUNNING,
        )  # fmt: skip


@triton.jit
def finish_norm_kernel(
    stats, weight, bias, running_mean, running_var, tracked, mean, scale, shift, rstd,
    dvar_per_dscale, parts, values, momentum, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RUNNING: tl.constexpr, HAS_TRACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Batch norm from the statistics of a convolution's tiles; one channel per program.

    In: stats, the tiles' statistics, see `store_part`; values, the number per channel.
    Out: mean, scale, shift, and for backward rstd and dvar_per_dscale = dvar / dscale, all ``[C]`` float32.
    In place: running_mean, running_var, and tracked. Only the first program reads and increments tracked, so momentum
    must be a number.
    """
    i_c = tl.program_id(0)
    b_mean, b_var = merge_parts(stats, i_c, tl.num_programs(0), parts, BLOCK)
    double = tl.full([], 0.0, dtype=tl.float64)
    correction = (double + values) / (double + values - 1.0)
    b_scale, b_rstd = apply_norm(
        b_mean, b_var, weight, bias, running_mean, running_var, scale, shift, i_c, i_c >= 0, double + momentum,
        correction, eps, HAS_WEIGHT, HAS_BIAS, HAS_RUNNING,
    )  # fmt: skip
    tl.store(mean + i_c, b_mean)
    tl.store(rstd + i_c, b_rstd)
    tl.store(dvar_per_dscale + i_c, -0.5 * b_scale * b_rstd * b_rstd)
    if HAS_TRACKED:
        tl.store(tracked, tl.load(tracked, mask=i_c == 0, other=0) + 1, mask=i_c == 0)


@triton.jit
def batch_norm_bwd_kernel(
    dscale, var, weight, dvar, dweight, channels, eps,
    HAS_WEIGHT: tl.constexpr, HAS_DWEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dvar and dweight; BLOCK channels per program.

    Gradient in: dscale. Saved: var, weight. Gradient out, all of it written: dvar, dweight.
    """
    o_c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_c = o_c < channels
    rstd = 1.0 / tl.sqrt_rn(tl.load(var + o_c, mask=m_c, other=1.0) + eps)
    d = tl.load(dscale + o_c, mask=m_c, other=0.0) * rstd
    b_dvar = -0.5 * d * rstd * rstd
    if HAS_WEIGHT:
        b_dvar *= tl.load(weight + o_c, mask=m_c, other=0.0).to(tl.float32)
    tl.store(dvar + o_c, b_dvar, mask=m_c)
    if HAS_DWEIGHT:
        tl.store(dweight + o_c, d.to(dweight.dtype.element_ty), mask=m_c)
