"""Device functions that the forward and dgrad kernels share: a tile's positions, its live taps and its operands.

A tile is BT x BH x BW positions of one phase of the output, in row-major order. `taps` explains phases and taps.
Offsets inside a tile have 32 bits, its origin has 64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.activation.triton_kernels import normalise, relu

# The coordinate of rows that are not positions of the map. It is outside at every tap, so taps need no further check.
FAR_OUTSIDE = tl.constexpr(-(1 << 24))
# Read maps through L1, because a tile's taps read most items repeatedly. By default 16-byte copies bypass L1.
CACHE = tl.constexpr(".ca")
# Accumulators with at least this many columns are stored in quarters.
SPLIT_FROM = tl.constexpr(128)
# A launch of fwd or dgrad does all of a tile. With few tiles, a first launch stores sums of parts of the steps, and a
# second adds them and does the rest.
WHOLE, SUMS, REST = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def split_program(i_p, size_t, size_h, size_w, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Sample and first position (t, h, w) of the i_p-th tile, w fastest."""
    tiles_h, tiles_w = tl.cdiv(size_h, BH), tl.cdiv(size_w, BW)
    tiles_t = tl.cdiv(size_t, BT)
    w, rest = i_p % tiles_w, i_p // tiles_w
    h, rest = rest % tiles_h, rest // tiles_h
    return rest // tiles_t, rest % tiles_t * BT, h * BH, w * BW


@triton.jit
def places(BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """t, h, w of a tile's rows, relative to its first position."""
    o = tl.arange(0, BT * BH * BW)
    return o // (BH * BW), o // BW % BH, o % BW


@triton.jit
def live_taps(origin, extent, length, count, first_offset, step):
    """First and number of the j for which [origin, origin + extent] + first_offset + j * step meets [0, length)."""
    low = (tl.maximum(-origin - extent - first_offset, 0) + step - 1) // step
    room = length - 1 - origin - first_offset
    high = tl.minimum(tl.where(room < 0, 0, room // step + 1), count)
    return low, tl.maximum(high - low, 0)


@triton.jit
def source_vectors(mean, scale, shift, o_c, m_c, HAS_AFFINE: tl.constexpr):
    """mean, scale and shift of the lanes' channels; zeros without HAS_AFFINE."""
    b_mean = tl.zeros((o_c.shape[0],), dtype=tl.float32)
    b_scale, b_shift = b_mean, b_mean
    if HAS_AFFINE:
        b_mean = tl.load(mean + o_c, mask=m_c, other=0.0)
        b_scale = tl.load(scale + o_c, mask=m_c, other=0.0)
        b_shift = tl.load(shift + o_c, mask=m_c, other=0.0)
    return b_mean, b_scale, b_shift


@triton.jit
def load_source(
    x, addend, vectors, o_x, inside, HAS_AFFINE: tl.constexpr, RELU: tl.constexpr, HAS_ADDEND: tl.constexpr
):
    """The activation a = relu((x - mean) * scale + shift) + addend of lanes inside, zero elsewhere, in x's dtype.

    o_x, inside: ``[M, K]``. vectors: `source_vectors` of the lanes. Folding the mean into the shift would save one
    addition per value. But for mean / std = 1e3 it changes the mean of y by more than torch's total error, in float16
    too.
    """
    a = tl.load(x + o_x, mask=inside, other=0.0, cache_modifier=CACHE)
    if HAS_AFFINE or RELU or HAS_ADDEND:
        z = a.to(tl.float32)
        if HAS_AFFINE:
            z = normalise(z, vectors[0][None, :], vectors[1][None, :], vectors[2][None, :])
        if RELU:
            z = relu(z)
        if HAS_ADDEND:
            z += tl.load(addend + o_x, mask=inside, other=0.0, cache_modifier=CACHE).to(tl.float32)
        a = tl.where(inside, z, 0.0).to(x.dtype.element_ty)
    return a


@triton.jit
def gradient_vectors(
    mean, dmean, dvar, dvar_per_dscale, inverse_count, o_c, m_c, HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr
):
    """mean, dmean / M and 2 dvar / M of the lanes' channels; zeros without HAS_STATS."""
    b_mean = tl.zeros((o_c.shape[0],), dtype=tl.float32)
    constant, slope = b_mean, b_mean
    if HAS_STATS:
        b_mean = tl.load(mean + o_c, mask=m_c, other=0.0)
        constant = tl.load(dmean + o_c, mask=m_c, other=0.0) * inverse_count
        slope = tl.load(dvar + o_c, mask=m_c, other=0.0) * (2.0 * inverse_count)
        if HAS_NORM:
            slope *= tl.load(dvar_per_dscale + o_c, mask=m_c, other=0.0)
    return b_mean, constant, slope


@triton.jit
def load_gradient(dy, y, vectors, o_y, inside, HAS_STATS: tl.constexpr):
    """G = dy + dmean / M + 2 dvar (y - mean) / M of lanes inside, zero elsewhere, in dy's dtype."""
    g = tl.load(dy + o_y, mask=inside, other=0.0, cache_modifier=CACHE)
    if HAS_STATS:
        b_y = tl.load(y + o_y, mask=inside, other=0.0, cache_modifier=CACHE).to(tl.float32)
        # this order gives two multiply-adds and one addition, without spills
        z = g.to(tl.float32) + (vectors[1][None, :] + vectors[2][None, :] * (b_y - vectors[0][None, :]))
        g = tl.where(inside, z, 0.0).to(dy.dtype.element_ty)
    return g


@triton.jit
def halves(acc):
    """The left and right half of acc's columns."""
    return tl.split(tl.permute(tl.reshape(acc, (acc.shape[0], 2, acc.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def quarters(acc):
    """Four blocks of acc's columns. An epilogue that stores them one after another needs far fewer registers."""
    left, right = halves(acc)
    first, second = halves(left)
    third, fourth = halves(right)
    return first, second, third, fourth


@triton.jit
def of_phase(table, phase, ROW: tl.constexpr, PHASES: tl.constexpr):
    """Count, first tap and first offset of an axis' taps in a phase. The axis' rows in the table start at ROW."""
    count, tap, offset = table[3 * ROW], table[3 * ROW + 1], table[3 * ROW + 2]
    for f in tl.static_range(1, PHASES):
        count = tl.where(phase == f, table[3 * (ROW + f)], count)
        tap = tl.where(phase == f, table[3 * (ROW + f) + 1], tap)
        offset = tl.where(phase == f, table[3 * (ROW + f) + 2], offset)
    return count, tap, offset


@triton.jit
def begin_tile(
    tile, table, samples_out, in_size, out_size, step,
    IN_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Locate a tile in the input and the output, and find its live taps.

    Args:
        tile: index over phases and, within a phase, samples and positions.
        table: flattened ``[3, S, 3]`` of `taps.phase_table`, with S the largest of OUT_STRIDE.
        samples_out: N. in_size, out_size: ``T, H, W``. step: offset_step of each axis.

    Returns:
        in_pixel, out_pixel: 64-bit index of the tile's first position in an input and an output map.
        in_rows, out_rows: ``[M]``, each row's index relative to those.
        at: three ``[M]``, each row's input coordinates at offset 0; far outside for rows that are not outputs.
        inside: ``[M]``, whether rows are positions of the output.
        live: (low, number) of each axis' live taps. first: (first tap, first offset) of each axis in this phase.
    """
    size_t, size_h, size_w = (
        tl.cdiv(out_size[0], OUT_STRIDE[0]), tl.cdiv(out_size[1], OUT_STRIDE[1]), tl.cdiv(out_size[2], OUT_STRIDE[2])
    )  # fmt: skip
    per_phase = samples_out * tl.cdiv(size_t, BT) * tl.cdiv(size_h, BH) * tl.cdiv(size_w, BW)
    phase = tile // per_phase
    sample, t, h, w = split_program(tile % per_phase, size_t, size_h, size_w, BT, BH, BW)
    phase_w, phase_h = phase % OUT_STRIDE[2], phase // OUT_STRIDE[2] % OUT_STRIDE[1]
    phase_t = phase // (OUT_STRIDE[2] * OUT_STRIDE[1])

    o_t, o_h, o_w = places(BT, BH, BW)
    inside = (t + o_t) * OUT_STRIDE[0] + phase_t < out_size[0]
    inside &= (h + o_h) * OUT_STRIDE[1] + phase_h < out_size[1]
    inside &= (w + o_w) * OUT_STRIDE[2] + phase_w < out_size[2]
    at_h = tl.where(inside, (h + o_h) * IN_STRIDE[1], FAR_OUTSIDE)
    at = ((t + o_t) * IN_STRIDE[0], at_h, (w + o_w) * IN_STRIDE[2])
    in_rows = (o_t * IN_STRIDE[0] * in_size[1] + o_h * IN_STRIDE[1]) * in_size[2] + o_w * IN_STRIDE[2]
    out_rows = (o_t * OUT_STRIDE[0] * out_size[1] + o_h * OUT_STRIDE[1]) * out_size[2] + o_w * OUT_STRIDE[2]
    in_pixel = sample.to(tl.int64) * in_size[0] + t * IN_STRIDE[0]
    in_pixel = (in_pixel * in_size[1] + h * IN_STRIDE[1]) * in_size[2] + w * IN_STRIDE[2]
    out_pixel = sample.to(tl.int64) * out_size[0] + t * OUT_STRIDE[0] + phase_t
    out_pixel = (out_pixel * out_size[1] + h * OUT_STRIDE[1] + phase_h) * out_size[2] + w * OUT_STRIDE[2] + phase_w

    most: tl.constexpr = max(OUT_STRIDE[0], max(OUT_STRIDE[1], OUT_STRIDE[2]))
    count_t, tap_t, offset_t = of_phase(table, phase_t, 0, OUT_STRIDE[0])
    count_h, tap_h, offset_h = of_phase(table, phase_h, most, OUT_STRIDE[1])
    count_w, tap_w, offset_w = of_phase(table, phase_w, 2 * most, OUT_STRIDE[2])
    first = (tap_t, offset_t, tap_h, offset_h, tap_w, offset_w)
    reach_t = (tl.minimum(BT, size_t - t) - 1) * IN_STRIDE[0]
    reach_h = (tl.minimum(BH, size_h - h) - 1) * IN_STRIDE[1]
    reach_w = (tl.minimum(BW, size_w - w) - 1) * IN_STRIDE[2]
    low_t, live_t = live_taps(t * IN_STRIDE[0], reach_t, in_size[0], count_t, first[1], step[0])
    low_h, live_h = live_taps(h * IN_STRIDE[1], reach_h, in_size[1], count_h, first[3], step[1])
    low_w, live_w = live_taps(w * IN_STRIDE[2], reach_w, in_size[2], count_w, first[5], step[2])
    live = (low_t, live_t, low_h, live_h, low_w, live_w)
    return in_pixel, out_pixel, in_rows, out_rows, at, inside, live, first


@triton.jit
def count_steps(live, channels, BLOCK_K: tl.constexpr, PACK: tl.constexpr):
    """Number of K-steps over the live taps and the channels."""
    taps = live[1] * live[3] * live[5]
    if PACK > 0:
        return tl.cdiv(taps * PACK, BLOCK_K)
    return taps * tl.cdiv(channels, BLOCK_K)


@triton.jit
def next_step(odometer, live, BLOCK_K: tl.constexpr):
    """Advance (j of each axis, first channel) to the next step. Taps are innermost; there is no division."""
    j_t, j_h, j_w, c = odometer
    j_w += 1
    over = j_w == live[5]
    j_w = tl.where(over, 0, j_w)
    j_h += over.to(tl.int32)
    over = j_h == live[3]
    j_h = tl.where(over, 0, j_h)
    j_t += over.to(tl.int32)
    over = j_t == live[1]
    return tl.where(over, 0, j_t), j_h, j_w, tl.where(over, c + BLOCK_K, c)


@triton.jit
def split_of_program(STAGE: tl.constexpr, SPLITS: tl.constexpr):
    """Which of the SPLITS programs of a tile this is, its index among the programs of that split, and their number."""
    i_s, i_p, programs = 0, tl.program_id(0), tl.num_programs(0)
    if STAGE == SUMS:
        programs = programs // SPLITS
        i_s, i_p = i_p // programs, i_p % programs
    return i_s, i_p, programs


@triton.jit
def share_of_steps(i_s, steps, live, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr):
    """First and end of the steps of program i_s of SPLITS that share them, and the odometer at the first."""
    zero = tl.zeros((), dtype=tl.int32)
    odometer = (zero, zero, zero, zero)
    begin, end = zero, steps
    if SPLITS > 1:
        share = tl.cdiv(steps, SPLITS)
        begin = tl.minimum(i_s * share, steps)
        end = tl.minimum(begin + share, steps)
        live_h, live_w = tl.maximum(live[3], 1), tl.maximum(live[5], 1)
        taps = tl.maximum(live[1], 1) * live_h * live_w
        j = begin % taps
        odometer = (j // (live_w * live_h), j // live_w % live_h, j % live_w, begin // taps * BLOCK_K)
    return begin, end, odometer


@triton.jit
def store_sums(acc, partial, row, width, from_column, m_n):
    """Store a program's sums as rows of ``[rows, width]``, from that row and column on."""
    o_m, o_n = tl.arange(0, acc.shape[0]), tl.arange(0, acc.shape[1])
    o = (row + o_m).to(tl.int64)[:, None] * width + (from_column + o_n)[None, :]
    tl.store(partial + o, acc, mask=m_n[None, :])


@triton.jit
def add_sums(partial, row, rows, width, from_column, m_n, BLOCK_M: tl.constexpr, SPLITS: tl.constexpr):
    """The sums of SPLITS programs, in their order. Each has ``[rows, width]``; see `store_sums`."""
    o_m, o_n = row + tl.arange(0, BLOCK_M), from_column + tl.arange(0, m_n.shape[0])
    acc = tl.zeros((BLOCK_M, m_n.shape[0]), dtype=tl.float32)
    for i in tl.static_range(SPLITS):
        o = (i * rows + o_m).to(tl.int64)[:, None] * width + o_n[None, :]
        acc += tl.load(partial + o, mask=m_n[None, :], other=0.0)
    return acc


@triton.jit
def step_lanes(
    i, odometer, live, first, at, in_rows, in_size, step, channels,
    TIME: tl.constexpr, TAPS: tl.constexpr, TAP_STEP: tl.constexpr, BLOCK_K: tl.constexpr, PACK: tl.constexpr,
    EVEN_K: tl.constexpr,
):  # fmt: skip
    """The input items and weight rows of the i-th K-step.

    With PACK, lanes run over taps and, within a tap, over PACK >= C channels. This serves thin maps, where one tap
    would fill only part of a step. Without PACK, a step is one tap and BLOCK_K channels. Without TIME no tap shifts in
    time, so frames need no bounds check.

    Args:
        odometer: the step's taps and first channel, see `next_step`; unused with PACK.

    Returns:
        o_x, inside: ``[M, K]``, items relative to the tile's first position, and whether they exist.
        o_c, m_c: ``[K]``, channels and whether they exist.
        tap: ``[K]`` or a scalar, the tap's index in the weight.
    """
    low_t, live_t, low_h, live_h, low_w, live_w = live
    if PACK > 0:
        k = i * BLOCK_K + tl.arange(0, BLOCK_K)
        o_c, j = k % PACK, k // PACK
        m_c = j < live_t * live_h * live_w
        if not EVEN_K:
            m_c &= o_c < channels
        j_t, j_h, j_w = low_t + j // (live_w * live_h), low_h + j // live_w % live_h, low_w + j % live_w
    else:
        o_c = odometer[3] + tl.arange(0, BLOCK_K)
        m_c = tl.full((BLOCK_K,), 1, tl.int1) if EVEN_K else o_c < channels
        j_t, j_h, j_w = low_t + odometer[0], low_h + odometer[1], low_w + odometer[2]
    d_t, d_h, d_w = first[1] + j_t * step[0], first[3] + j_h * step[1], first[5] + j_w * step[2]
    pixel = (d_t * in_size[1] + d_h) * in_size[2] + d_w
    tap = ((first[0] + j_t * TAP_STEP[0]) * TAPS[1] + first[2] + j_h * TAP_STEP[1]) * TAPS[2]
    tap += first[4] + j_w * TAP_STEP[2]
    at_t, at_h, at_w = at
    if PACK > 0:
        i_t, i_h, i_w = at_t[:, None] + d_t[None, :], at_h[:, None] + d_h[None, :], at_w[:, None] + d_w[None, :]
        inside = (i_h >= 0) & (i_h < in_size[1]) & (i_w >= 0) & (i_w < in_size[2]) & m_c[None, :]
        if TIME:
            inside &= (i_t >= 0) & (i_t < in_size[0])
        if EVEN_K:
            o_x = in_rows[:, None] * PACK + (pixel * PACK + o_c)[None, :]
        else:
            o_x = in_rows[:, None] * channels + (pixel * channels + o_c)[None, :]
    else:
        i_t, i_h, i_w = at_t + d_t, at_h + d_h, at_w + d_w
        rows = (i_h >= 0) & (i_h < in_size[1]) & (i_w >= 0) & (i_w < in_size[2])
        if TIME:
            rows &= (i_t >= 0) & (i_t < in_size[0])
        inside = rows[:, None] & m_c[None, :]
        o_x = in_rows[:, None] * channels + (pixel * channels + o_c)[None, :]
    return o_x, inside, o_c, m_c, tap
