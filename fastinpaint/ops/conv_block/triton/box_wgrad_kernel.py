"""wgrad of maps that are activated already: the copy engines bring boxes of both, and the loop only multiplies.

A box is BT x BH x BW positions of some channels. Positions outside a map arrive as zeros, so the loop has no masks.
"""

# ruff: noqa: RUF005 -- Triton's language does not unpack tuples

from __future__ import annotations

import triton
import triton.language as tl

from fastinpaint.ops.conv_block.triton.gather import gradient_vectors, load_gradient


@triton.jit
def write_gradient_kernel(
    dy, y, y_mean, dmean, dvar, dvar_per_dscale, out, inverse_count, rows, channels,
    HAS_STATS: tl.constexpr, HAS_NORM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """G, the gradient of y with that of its statistics, as a map of its own.

    Gradient in: dy, dmean, dvar and saved y, y_mean, dvar_per_dscale as in `conv_dgrad_kernel`. Out: ``[R, C]``.
    """
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    vectors = gradient_vectors(y_mean, dmean, dvar, dvar_per_dscale, inverse_count, o_c, m_c, HAS_STATS, HAS_NORM)
    o_rc, m_rc = o_r[:, None] * channels + o_c[None, :], (o_r < rows)[:, None] & m_c[None, :]
    tl.store(out + o_rc, load_gradient(dy, y, vectors, o_rc, m_rc, HAS_STATS), mask=m_rc)


@triton.jit
def boxes_of(
    x, samples, size, channels, first, STRIDE: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The boxes of the positions ``STRIDE * q + first`` of a map ``[N, T, H, W, C]``, by q."""
    row = size[2].to(tl.int64) * channels
    frame = row * size[1]
    start = x + (first[0] * frame + first[1] * row + first[2] * channels)
    # the hardware takes no empty axis; one has no steps
    length_t = tl.maximum(tl.cdiv(size[0] - first[0], STRIDE[0]), 1)
    length_h = tl.maximum(tl.cdiv(size[1] - first[1], STRIDE[1]), 1)
    length_w = tl.maximum(tl.cdiv(size[2] - first[2], STRIDE[2]), 1)
    return tl.make_tensor_descriptor(
        start,
        [samples, length_t, length_h, length_w, channels],
        [frame * size[0], frame * STRIDE[0], row * STRIDE[1], channels.to(tl.int64) * STRIDE[2], 1],
        [1, BT, BH, BW, BLOCK_C],
    )


@triton.jit
def reach_of_tap(size, length, offset, STRIDE: tl.constexpr):
    """First and end of the q in [0, size) with STRIDE * q + offset in [0, length), and offset as m * STRIDE + r.

    Returns:
        low, high, m, r with 0 <= r < STRIDE. No q is inside where high <= low.
    """
    low = (tl.maximum(-offset, 0) + STRIDE - 1) // STRIDE
    room = length - 1 - offset
    high = tl.minimum(tl.where(room < 0, 0, room // STRIDE + 1), size)
    r = (offset % STRIDE + STRIDE) % STRIDE
    return low, high, (offset - r) // STRIDE, r


@triton.jit
def box_wgrad_kernel(
    moving, fixed, partial, samples, fixed_size, moving_size, first_offset, dilation,
    moving_channels, fixed_channels, tap_stride, moving_stride, fixed_stride, splits,
    STRIDE: tl.constexpr, TAPS: tl.constexpr, EACH: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A split of P[tap, m, n] = sum_q moving[STRIDE * q + offset(tap), m] fixed[q, n] for EACH taps and a block (m, n).

    offset(tap) is ``first_offset + dilation * tap`` along each axis. Boxes of the fixed map are read once for all EACH
    taps. q runs over the positions that any of these taps reaches.

    Saved and gradient in: moving ``[N, *moving_size, moving_channels]``, fixed ``[N, *fixed_size, fixed_channels]``.
        One is the activation and the other is G. Channels are a multiple of 8, maps are 16-bit.
    Out, all of it written: partial ``[splits, taps, ...]`` float32; the strides say where m and n stand in a tap.
    """
    taps: tl.constexpr = TAPS[0] * TAPS[1] * TAPS[2]
    groups: tl.constexpr = (taps + EACH - 1) // EACH
    BLOCK_K: tl.constexpr = BT * BH * BW
    n_blocks, m_blocks = tl.cdiv(fixed_channels, BLOCK_N), tl.cdiv(moving_channels, BLOCK_M)
    i_n, rest = tl.program_id(0) % n_blocks, tl.program_id(0) // n_blocks
    i_m, rest = rest % m_blocks, rest // m_blocks
    first_tap, i_s = rest % groups * EACH, rest // groups

    of_fixed = boxes_of(fixed, samples, fixed_size, fixed_channels, (0, 0, 0), (1, 1, 1), BT, BH, BW, BLOCK_N)
    low_t, low_h, low_w = fixed_size[0], fixed_size[1], fixed_size[2]
    high_t, high_h, high_w = 0, 0, 0
    of_moving, shifts, sums = (), (), ()
    for e in tl.static_range(EACH):
        tap = tl.minimum(first_tap + e, taps - 1)
        at_t, at_h, at_w = tap // (TAPS[1] * TAPS[2]), tap // TAPS[2] % TAPS[1], tap % TAPS[2]
        offset_t = first_offset[0] + at_t * dilation[0]
        offset_h = first_offset[1] + at_h * dilation[1]
        offset_w = first_offset[2] + at_w * dilation[2]
        from_t, to_t, m_t, r_t = reach_of_tap(fixed_size[0], moving_size[0], offset_t, STRIDE[0])
        from_h, to_h, m_h, r_h = reach_of_tap(fixed_size[1], moving_size[1], offset_h, STRIDE[1])
        from_w, to_w, m_w, r_w = reach_of_tap(fixed_size[2], moving_size[2], offset_w, STRIDE[2])
        low_t, low_h, low_w = tl.minimum(low_t, from_t), tl.minimum(low_h, from_h), tl.minimum(low_w, from_w)
        high_t, high_h, high_w = tl.maximum(high_t, to_t), tl.maximum(high_h, to_h), tl.maximum(high_w, to_w)
        begin = (r_t, r_h, r_w)
        boxes = boxes_of(moving, samples, moving_size, moving_channels, begin, STRIDE, BT, BH, BW, BLOCK_M)
        of_moving = of_moving + (boxes,)  # type: ignore[assignment]
        shifts = shifts + (m_t, m_h, m_w)  # type: ignore[assignment]
        sums = sums + (tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32),)  # type: ignore[assignment]

    blocks_t = tl.cdiv(tl.maximum(high_t - low_t, 0), BT)
    blocks_h = tl.cdiv(tl.maximum(high_h - low_h, 0), BH)
    blocks_w = tl.cdiv(tl.maximum(high_w - low_w, 0), BW)
    steps = samples * blocks_t * blocks_h * blocks_w
    share = tl.cdiv(steps, splits)
    first_step = i_s * share
    some_t, some_h, some_w = tl.maximum(blocks_t, 1), tl.maximum(blocks_h, 1), tl.maximum(blocks_w, 1)
    line = first_step // some_w
    frame = line // some_h
    n = frame // some_t
    q_t, q_h, q_w = low_t + frame % some_t * BT, low_h + line % some_h * BH, low_w + first_step % some_w * BW
    for _ in range(first_step, tl.minimum(first_step + share, steps)):
        b_fixed = tl.reshape(of_fixed.load([n, q_t, q_h, q_w, i_n * BLOCK_N]), (BLOCK_K, BLOCK_N))
        added = ()
        for e in tl.static_range(EACH):
            at = [n, q_t + shifts[3 * e], q_h + shifts[3 * e + 1], q_w + shifts[3 * e + 2], i_m * BLOCK_M]
            b_moving = tl.reshape(of_moving[e].load(at), (BLOCK_K, BLOCK_M))
            added = added + (tl.dot(tl.trans(b_moving), b_fixed, sums[e]),)
        sums = added
        # next box, w fastest, without division
        q_w += BW
        if q_w >= high_w:
            q_w = low_w
            q_h += BH
        if q_h >= high_h:
            q_h = low_h
            q_t += BT
        if q_t >= high_t:
            q_t = low_t
            n += 1

    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (o_m < moving_channels)[:, None] & (o_n < fixed_channels)[None, :]
    o_mn = o_m[:, None] * moving_stride + o_n[None, :] * fixed_stride
    for e in tl.static_range(EACH):
        if first_tap + e < taps:
            of_tap = partial + (i_s * taps + first_tap + e).to(tl.int64) * tap_stride
            tl.store(of_tap + o_mn, sums[e], mask=inside)
