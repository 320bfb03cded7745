"""Grouped convolutions in Triton: depthwise ones, and those with a multiple of 16 channels in each group.

They have fixed tiles and one source; several are first written out as one. Forward and dgrad are one launch each, with
the prologue in the load. wgrad reads the activation and G written out, so that its taps do not repeat their prologues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.activation.triton_launch import power_of_2
from fastinpaint.ops.conv_block.triton import activate_first, tiles
from fastinpaint.ops.conv_block.triton.backward import NO_GRAD, Gradient, empty_backward, gradient_sums, pass_steps
from fastinpaint.ops.conv_block.triton.finish import NormWeight, finish
from fastinpaint.ops.conv_block.triton.host import densely, gather_arguments, gather_parts, weight_strides
from fastinpaint.ops.conv_block.triton.prepared import Memory, Prepared, kept, prepare, remembered
from fastinpaint.ops.conv_block.triton.taps import Gather, Problem, gathers, problem
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.types import Geometry, Source, SourceGrad

if support.INSTALLED:
    from fastinpaint.ops.conv_block.triton import groups_kernel

LEAST_CHANNELS = 16  # of a group: the shortest step and the narrowest product of the tensor cores
MOST_COLUMNS, MOST_STEP, ROWS = 64, 32, 128  # of a product: the accumulator takes 64 registers of 4 warps
WARPS, STAGES = 4, 3
ITEMS, MOST_ROWS, DEPTHWISE_WARPS = 4096, 256, 8  # of a depthwise tile: 16 items a thread
PROGRAMS = 8 * tiles.MULTIPROCESSORS  # of wgrad


def why_not(weight: Tensor, geometry: Geometry) -> str | None:
    """Why a convolution with such groups cannot run here, in one sentence, or None."""
    first, second = group_channels(weight, geometry)
    if first == second == 1 or (first % LEAST_CHANNELS == 0 and second % LEAST_CHANNELS == 0):
        return None
    channels = (first, second) if geometry.transposed else (second, first)
    return (
        f"conv_block: the Triton kernels take groups of one channel or of a multiple of {LEAST_CHANNELS}, got "
        f"{channels[0]} channels in and {channels[1]} out per group."
    )


def group_channels(weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    """Channels per group along the weight's first two axes: out and in, or in and out if transposed."""
    return weight.shape[0] // geometry.groups, weight.shape[1]


def largest_block(channels: int, most: int) -> int:
    """The largest power of 2 that divides the channels, at most that many."""
    return min(channels & -channels, most)


def _gather_numbers(
    gather: Gather, samples: int, weight: Tensor, geometry: Geometry, reads_first: bool
) -> tuple[int, int, dict[str, Any]]:
    """Tiles, blocks of columns, and the constants that forward and dgrad share.

    reads_first: whether the map that is read has the channels of the weight's first axis.
    """
    first, second = group_channels(weight, geometry)
    group_k, group_n = (first, second) if reads_first else (second, first)
    _, inner, outer = weight_strides(weight, True)[:3]  # of a tap, and of the first axis; the second has stride 1
    depthwise, columns = group_k == group_n == 1, group_n * geometry.groups
    if depthwise:
        n = min(power_of_2(columns), MOST_COLUMNS)
        tile = tiles.Tile(min(ITEMS // n, MOST_ROWS), n, n, DEPTHWISE_WARPS, 1)
    else:
        step = MOST_STEP if weight.element_size() == 2 else MOST_STEP // 2
        n, k = largest_block(group_n, MOST_COLUMNS), largest_block(group_k, step)
        tile = tiles.Tile(ROWS, n, k, WARPS, STAGES)
    strides = {"w_k": outer, "w_n": 1} if reads_first else {"w_k": 1, "w_n": outer}
    if depthwise:
        strides = {"w_k": 0, "w_n": outer}
    numbers = {
        "w_group": first * outer, "w_tap": inner, **strides, "DEPTHWISE": depthwise, "GROUP_K": group_k,
        "GROUP_N": group_n, **gather_arguments(gather, samples, tile, not tf32_convolutions()),
    }  # fmt: skip
    return gather_parts(gather, samples, tile), -(-columns // tile.n), numbers


def prepare_fwd(
    sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, stats: bool
) -> Prepared:
    """Forward's launch, with the tensors of `conv_fwd_kernel`."""
    (source,) = sources
    conv = problem(tuple(source.x.shape), tuple(y.shape), tuple(weight.shape[2:]), geometry)
    gather = gathers(conv)[0]
    parts, blocks, numbers = _gather_numbers(gather, conv.samples, weight, geometry, geometry.transposed)
    constants = {
        "channels": source.x.shape[1], "out_channels": y.shape[1], **_flags(source), "HAS_BIAS": bias is not None,
        "HAS_STATS": stats, **numbers,
    }  # fmt: skip
    found = prepare(groups_kernel.groups_fwd_kernel, (parts * blocks,), constants)
    return found._replace(launch=_Forward(found.launch), sizes=(y.shape[1], parts))


class _Forward:
    """Forward's launch without the tensors of a second source and of shared sums."""

    __slots__ = ("launch",)

    def __init__(self, launch: Callable[..., object]) -> None:
        self.launch = launch

    def __call__(self, *tensors: Tensor | None) -> None:
        self.launch(*tensors[:5], *tensors[10:14])


def _flags(source: Source) -> dict[str, bool]:
    """Compile-time flags of the kernels for a source."""
    return {
        "HAS_AFFINE": source.mean is not None, "RELU": bool(source.relu), "HAS_ADDEND": source.addend is not None,
    }  # fmt: skip


def bwd(
    grad: Gradient,
    norm: NormWeight | None,
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
    memory: Memory | None = None,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
    """As `backward.bwd_two`, for one source."""
    dy, source = grad.dy, densely(sources[0])
    if not dy.numel() or not source.x.numel():
        return *empty_backward(grad, [source], weight, needs, needs_weight, needs_bias), None
    conv, _, steps = pass_steps(grad, norm, [source], weight, geometry, (*needs, needs_weight, needs_bias), memory)
    sums = partial = dnorm_weight = None
    with support.on_device_of(dy):
        bias_sums = gradient_sums(grad) if needs_bias else None
        if needs_weight:
            partial = _partial_sums(
                activate_first.activated([source]), grad.written().dy, weight, geometry, conv, steps
            )
        maps = []
        if needs[0]:
            dx = torch.empty_like(source.x)
            daddend = None if source.addend is None else torch.empty_like(dx)
            maps.append((dx, daddend))
            packed = weight_strides(weight, geometry.transposed)[0]
            found = remembered(steps, "dgrad", groups_kernel.groups_dgrad_kernel)
            if found is None:
                found = kept(steps, "dgrad", _prepare_dgrad(grad, source, weight, geometry, conv), True)
            if found.sizes:
                sums = torch.empty(math.prod(found.sizes), dtype=torch.float32, device=dy.device)
            found.launch(*grad, packed, *source[:4], dx, daddend, sums)
        if norm is not None and geometry.transposed:  # `finish` takes the weight's first axis for the channels of y
            dnorm_weight, norm = (norm.dscale * norm.rstd).to(norm.weight.dtype), None
        wanted = [source] if needs[0] else []
        grads, dweight, dbias, of_norm = finish(wanted, maps, sums, partial, bias_sums, norm, weight, False, steps)
    return grads if needs[0] else [NO_GRAD], dweight, dbias, dnorm_weight if of_norm is None else of_norm


def _prepare_dgrad(grad: Gradient, source: Source, weight: Tensor, geometry: Geometry, conv: Problem) -> Prepared:
    """Dgrad's launch."""
    gather, channels = gathers(conv)[1], source.x.shape[1]
    parts, blocks, numbers = _gather_numbers(gather, conv.samples, weight, geometry, not geometry.transposed)
    constants = {
        "inverse_count": grad.inverse_count, "out_channels": grad.dy.shape[1], "channels": channels, **grad.flags(),
        **_flags(source), **numbers,
    }  # fmt: skip
    sizes = () if source.mean is None else (2, channels, parts)
    return prepare(groups_kernel.groups_dgrad_kernel, (parts * blocks,), constants, sizes)


def _partial_sums(a: Tensor, g: Tensor, weight: Tensor, geometry: Geometry, conv: Problem, steps: Memory) -> Tensor:
    """Every split's partial sum of dweight, ``S * taps * C_moving / groups * C_fixed`` float32."""
    fixed, moving = (a, g) if geometry.transposed else (g, a)
    found = remembered(steps, "wgrad", groups_kernel.groups_wgrad_kernel)
    if found is None:
        found = kept(steps, "wgrad", _prepare_wgrad(fixed, moving, weight, geometry, conv), True)
    partial = torch.empty(math.prod(found.sizes), dtype=torch.float32, device=a.device)
    found.launch(fixed, moving, partial)
    return partial


def _prepare_wgrad(fixed: Tensor, moving: Tensor, weight: Tensor, geometry: Geometry, conv: Problem) -> Prepared:
    """Wgrad's launch."""
    group_n, group_m = group_channels(weight, geometry)
    depthwise, channels, taps = group_n == group_m == 1, fixed.shape[1], math.prod(conv.taps)
    if depthwise:
        m, n = 1, min(power_of_2(channels), MOST_COLUMNS)
        rows, warps = min(ITEMS // n, MOST_ROWS), DEPTHWISE_WARPS
    else:
        m, n = largest_block(group_m, MOST_COLUMNS), largest_block(group_n, MOST_COLUMNS)
        rows, warps = MOST_STEP, WARPS
    block = tiles.block_shape(rows, conv.small)
    every, blocks = tiles.tiles_of(block, conv.small, conv.samples), taps * -(-channels // n) * (group_m // m)
    each = -(-every // max(1, min(every, PROGRAMS // blocks, tiles.MAX_SPLITS)))
    splits = -(-every // each)
    numbers = {
        "samples": conv.samples, "small": conv.small, "large": conv.large, "padding": conv.padding,
        "dilation": conv.dilation, "fixed_channels": channels, "moving_channels": moving.shape[1],
        "tiles_per_split": each, "DEPTHWISE": depthwise, "GROUP_M": group_m, "GROUP_N": group_n,
        "STRIDE": conv.stride, "TAPS": conv.taps, "BT": block[0], "BH": block[1], "BW": block[2], "BLOCK_M": m,
        "BLOCK_N": n, "PRECISION": "tf32" if tf32_convolutions() else "ieee", "num_warps": warps,
        "num_stages": STAGES, **support.OPTIONS,
    }  # fmt: skip
    sizes = (splits, taps, group_m, channels)
    return prepare(groups_kernel.groups_wgrad_kernel, (splits * blocks,), numbers, sizes)
