"""The Triton kernels of `activation`. `reference` holds the equations.

Maps are dense channels-last, viewed as ``[R, C]`` with R = N * space rows. Arithmetic and sums are float32. In reducing
kernels each of the P programs walks ``rows_per_program`` rows and stores one column of a partial result ``[C, P]``. The
second stage sums it in a fixed order, so every run gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normalise(x, mean, scale, shift):
    """z = (x - mean) * scale + shift. The mean is subtracted first, so a large mean costs no precision."""
    return (x - mean) * scale + shift


@triton.jit
def relu(z):
    """max(z, 0), with NaN for NaN as in torch."""
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def merge_chan(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    """Merge count, mean and M2 of two groups (Chan, Golub and LeVeque 1979)."""
    count = count_a + count_b
    share = tl.where(count > 0, count_b / tl.maximum(count, 1.0), 0.0)
    delta = mean_b - mean_a
    return count, mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share


@triton.jit
def write_source(
    x, mean, scale, shift, addend, out, i_c, rows, channels, out_channels,
    HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the i_c-th block of a source's channels into its columns of out; see `activation_fwd_kernel`."""
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    m_rc = (o_r < rows)[:, None] & m_c[None, :]
    o_rc = o_r[:, None] * channels + o_c[None, :]
    z = tl.load(x + o_rc, mask=m_rc, other=0.0).to(tl.float32)
    if HAS_AFFINE:
        b_mean = tl.load(mean + o_c, mask=m_c, other=0.0)[None, :]
        b_scale = tl.load(scale + o_c, mask=m_c, other=0.0)[None, :]
        z = normalise(z, b_mean, b_scale, tl.load(shift + o_c, mask=m_c, other=0.0)[None, :])
    if RELU:
        z = relu(z)
    if HAS_ADDEND:
        z += tl.load(addend + o_rc, mask=m_rc, other=0.0).to(tl.float32)
    tl.store(out + o_r[:, None] * out_channels + o_c[None, :], z.to(out.dtype.element_ty), mask=m_rc)


@triton.jit
def activation_fwd_kernel(
    x0, mean0, scale0, shift0, addend0, x1, mean1, scale1, shift1, addend1, out,
    rows, channels0, channels1, out_channels,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr, HAS_SOURCE1: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """a = relu(z) + addend for one or two sources ``[R, C_i]``, side by side in out ``[R, out_channels]``.

    x, addend: maps of one dtype. mean, scale, shift: ``[C_i]`` float32. out: starts at the first source's channels.
    """
    i_c = tl.program_id(1)
    first_of_1 = tl.cdiv(channels0, BLOCK_C)
    if HAS_SOURCE1:
        if i_c < first_of_1:
            write_source(
                x0, mean0, scale0, shift0, addend0, out, i_c, rows, channels0, out_channels,
                HAS_AFFINE0, RELU0, HAS_ADDEND0, BLOCK_R, BLOCK_C,
            )  # fmt: skip
        else:
            write_source(
                x1, mean1, scale1, shift1, addend1, out + channels0, i_c - first_of_1, rows, channels1, out_channels,
                HAS_AFFINE1, RELU1, HAS_ADDEND1, BLOCK_R, BLOCK_C,
            )  # fmt: skip
    else:
        write_source(
            x0, mean0, scale0, shift0, addend0, out, i_c, rows, channels0, out_channels,
            HAS_AFFINE0, RELU0, HAS_ADDEND0, BLOCK_R, BLOCK_C,
        )  # fmt: skip


@triton.jit
def source_bwd(
    da, x, mean, scale, shift, dx, daddend, partial, i_c, rows, first, channels, all_channels, da_channels,
    rows_per_program, HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Backward of the i_c-th block of a source's channels. Its sums start at channel ``first`` of partial."""
    i_p = tl.program_id(0)
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    if HAS_AFFINE:
        b_mean = tl.load(mean + o_c, mask=m_c, other=0.0)[None, :]
        b_scale = tl.load(scale + o_c, mask=m_c, other=0.0)[None, :]
        b_shift = tl.load(shift + o_c, mask=m_c, other=0.0)[None, :]
    sum_dz = tl.zeros((BLOCK_C,), dtype=tl.float32)
    sum_dz_x = tl.zeros((BLOCK_C,), dtype=tl.float32)
    start = i_p.to(tl.int64) * rows_per_program
    for i in range(0, rows_per_program, BLOCK_R):
        o_r = start + i + tl.arange(0, BLOCK_R)
        m_rc = (o_r < rows)[:, None] & m_c[None, :]
        o_rc = o_r[:, None] * channels + o_c[None, :]
        b_da = tl.load(da + o_r[:, None] * da_channels + o_c[None, :], mask=m_rc, other=0.0)
        dz = b_da.to(tl.float32)
        b_x = tl.load(x + o_rc, mask=m_rc, other=0.0).to(tl.float32)
        z = b_x
        if HAS_AFFINE:
            z = normalise(b_x, b_mean, b_scale, b_shift)
        if RELU:
            dz = tl.where(z <= 0.0, 0.0, dz)
        if HAS_AFFINE:
            sum_dz += tl.sum(dz, 0)
            sum_dz_x += tl.sum(tl.where(m_rc, dz * (b_x - b_mean), 0.0), 0)
            dz *= b_scale
        tl.store(dx + o_rc, dz.to(dx.dtype.element_ty), mask=m_rc)
        if HAS_ADDEND:
            tl.store(daddend + o_rc, b_da, mask=m_rc)
    if HAS_AFFINE:
        programs = tl.num_programs(0)
        tl.store(partial + (first + o_c) * programs + i_p, sum_dz, mask=m_c)
        tl.store(partial + (all_channels + first + o_c) * programs + i_p, sum_dz_x, mask=m_c)


@triton.jit
def activation_bwd_kernel(
    da0, x0, mean0, scale0, shift0, dx0, daddend0, da1, x1, mean1, scale1, shift1, dx1, daddend1, partial,
    rows, channels0, channels1, da_channels, rows_per_program,
    HAS_AFFINE0: tl.constexpr, RELU0: tl.constexpr, HAS_ADDEND0: tl.constexpr,
    HAS_AFFINE1: tl.constexpr, RELU1: tl.constexpr, HAS_ADDEND1: tl.constexpr, HAS_SOURCE1: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dz = da * 1[z > 0], dx = dz * scale, daddend = da, and this program's sums of dz and dz * (x - mean).

    Gradient in:
        da: ``[R, da_channels]``, given once per source, starting at its channels.
    Saved (one or two sources):
        x: ``[R, C_i]``. mean, scale, shift: ``[C_i]`` float32.
    Gradient out, all of it written:
        dx, daddend: ``[R, C_i]``. partial: ``[2, C_0 + C_1, P]`` float32, of the sources with a mean.
    """
    i_c = tl.program_id(1)
    first_of_1 = tl.cdiv(channels0, BLOCK_C)
    if HAS_SOURCE1:
        if i_c < first_of_1:
            source_bwd(
                da0, x0, mean0, scale0, shift0, dx0, daddend0, partial, i_c, rows, 0, channels0, channels0 + channels1,
                da_channels, rows_per_program, HAS_AFFINE0, RELU0, HAS_ADDEND0, BLOCK_R, BLOCK_C,
            )  # fmt: skip
        else:
            source_bwd(
                da1, x1, mean1, scale1, shift1, dx1, daddend1, partial, i_c - first_of_1, rows, channels0, channels1,
                channels0 + channels1, da_channels, rows_per_program, HAS_AFFINE1, RELU1, HAS_ADDEND1, BLOCK_R, BLOCK_C,
            )  # fmt: skip
    else:
        source_bwd(
            da0, x0, mean0, scale0, shift0, dx0, daddend0, partial, i_c, rows, 0, channels0, channels0, da_channels,
            rows_per_program, HAS_AFFINE0, RELU0, HAS_ADDEND0, BLOCK_R, BLOCK_C,
        )  # fmt: skip


@triton.jit
def sum_parts(partial, parts, BLOCK: tl.constexpr):
    """The sum of partial ``[P]`` in a fixed order."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, parts, BLOCK):
        o = i + tl.arange(0, BLOCK)
        total += tl.load(partial + o, mask=o < parts, other=0.0)
    return tl.sum(total)


@triton.jit
def finish_channel(partial, scale, dmean, dscale, dshift, i_p, i_c, channels, parts, BLOCK: tl.constexpr):
    """dshift, dscale and dmean = -scale * dshift of channel i_c, channel i_p of partial ``[2, channels, P]``."""
    b_dshift = sum_parts(partial + i_p * parts, parts, BLOCK)
    tl.store(dshift + i_c, b_dshift)
    tl.store(dscale + i_c, sum_parts(partial + (channels + i_p) * parts, parts, BLOCK))
    tl.store(dmean + i_c, -tl.load(scale + i_c) * b_dshift)


@triton.jit
def finish_sources(
    partial, scale0, dmean0, dscale0, dshift0, scale1, dmean1, dscale1, dshift1, i_p, channels0, all_channels, parts,
    HAS_SUMS0: tl.constexpr, HAS_SUMS1: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`finish_channel` for channel i_p of two sources, if its source has sums."""
    if i_p < channels0:
        if HAS_SUMS0:
            finish_channel(partial, scale0, dmean0, dscale0, dshift0, i_p, i_p, all_channels, parts, BLOCK)
    elif HAS_SUMS1:
        finish_channel(partial, scale1, dmean1, dscale1, dshift1, i_p, i_p - channels0, all_channels, parts, BLOCK)


@triton.jit
def finish_sums_kernel(
    partial, scale0, dmean0, dscale0, dshift0, scale1, dmean1, dscale1, dshift1, channels0, all_channels, parts,
    HAS_SUMS0: tl.constexpr, HAS_SUMS1: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dmean, dscale and dshift ``[C_i]`` float32 from partial ``[2, all_channels, P]``; one channel per program."""
    finish_sources(
        partial, scale0, dmean0, dscale0, dshift0, scale1, dmean1, dscale1, dshift1, tl.program_id(0), channels0,
        all_channels, parts, HAS_SUMS0, HAS_SUMS1, BLOCK,
    )  # fmt: skip


@triton.jit
def batch_stats_kernel(y, stats, rows, channels, rows_per_program, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Count, mean and M2 of this program's rows of y ``[R, C]``, block by block. stats: see `store_part`."""
    i_p = tl.program_id(0)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    b_count = 0.0
    b_mean = tl.zeros((BLOCK_C,), dtype=tl.float32)
    b_m2 = tl.zeros((BLOCK_C,), dtype=tl.float32)
    start = i_p.to(tl.int64) * rows_per_program
    for i in range(0, rows_per_program, BLOCK_R):
        o_r = start + i + tl.arange(0, BLOCK_R)
        m_rc = (o_r < rows)[:, None] & m_c[None, :]
        b_y = tl.load(y + o_r[:, None] * channels + o_c[None, :], mask=m_rc, other=0.0).to(tl.float32)
        n = tl.sum((o_r < rows).to(tl.float32))
        block_mean = tl.sum(b_y, 0) / tl.maximum(n, 1.0)
        centred = tl.where(m_rc, b_y - block_mean[None, :], 0.0)
        b_count, b_mean, b_m2 = merge_chan(b_count, b_mean, b_m2, n, block_mean, tl.sum(centred * centred, 0))
    store_part(stats, i_p, tl.num_programs(0), channels, tl.program_id(1) == 0, b_count, b_mean, b_m2, o_c, m_c)


@triton.jit
def store_part(stats, i_p, parts, channels, first, count, mean, m2, o_c, m_c):
    """Store the i_p-th part of statistics: float32, count ``[P]``, then mean ``[C, P]``, then M2 ``[C, P]``.

    first: whether this program stores the count, which is the same for all channels.
    """
    if first:
        tl.store(stats + i_p, count)
    o = o_c * parts + i_p
    tl.store(stats + parts + o, mean, mask=m_c)
    tl.store(stats + parts + channels * parts + o, m2, mask=m_c)


@triton.jit
def merge_parts(stats, i_c, channels, parts, BLOCK: tl.constexpr):
    """Mean and biased variance of channel i_c from the parts' statistics, see `store_part`.

    M2 = sum_p m2_p + n_p (mean_p - mean)^2 is Chan's formula for P groups. Means are summed as differences from the
    first one, so a large mean costs no precision.
    """
    part_mean = stats + parts + i_c * parts
    part_m2 = part_mean + channels * parts
    first = tl.load(part_mean)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    moment = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, parts, BLOCK):
        o = i + tl.arange(0, BLOCK)
        n = tl.load(stats + o, mask=o < parts, other=0.0)
        total += n
        moment += n * (tl.load(part_mean + o, mask=o < parts, other=0.0) - first)
    n_all = tl.sum(total)
    offset = tl.sum(moment) / n_all
    b_m2 = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, parts, BLOCK):
        o = i + tl.arange(0, BLOCK)
        n = tl.load(stats + o, mask=o < parts, other=0.0)
        delta = tl.load(part_mean + o, mask=o < parts, other=0.0) - first - offset
        b_m2 += tl.load(part_m2 + o, mask=o < parts, other=0.0) + n * delta * delta
    return first + offset, tl.sum(b_m2) / n_all


@triton.jit
def finish_stats_kernel(stats, mean, var, parts, BLOCK: tl.constexpr):
    """mean and var ``[C]`` float32 by `merge_parts`; one channel per program."""
    i_c = tl.program_id(0)
    b_mean, b_var = merge_parts(stats, i_c, tl.num_programs(0), parts, BLOCK)
    tl.store(mean + i_c, b_mean)
    tl.store(var + i_c, b_var)
