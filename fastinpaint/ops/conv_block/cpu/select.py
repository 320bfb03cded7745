"""Which passes of a convolution on the CPU run on which own kernels, or on oneDNN's: a rule with its reasons.

The figures behind it are in docs/cpu.md. ``FASTINPAINT_CPU_CONV=own|onednn`` overrides it (``own`` wherever the own
kernels can compute the convolution at all).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinpaint import environment
from fastinpaint.ops.conv_block.cpu import depthwise, matmul, thin, winograd
from fastinpaint.ops.conv_block.geometry import live_taps
from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.types import Geometry, Source

VARIABLE = "FASTINPAINT_CPU_CONV"
PASSES = ("fwd", "dgrad", "wgrad")
DIRECT_KERNELS = frozenset((depthwise, matmul))  # which load every activation


class Costs(NamedTuple):
    """What a pass costs in float32, in multiplications of the products between Winograd's transforms.

    Attributes:
        direct: a multiplication of oneDNN's direct sum.
        packed: a value of the transformed weight, written and read again.
        call: some 30 us around oneDNN's kernels for its call, its plain activations and its weight's copy.
        pixels: below so many of the output a 1x1 convolution of a large weight runs on oneDNN: packing the weight, or
            writing its gradient, takes longer there than the normalised reads save.
    """

    direct: float
    packed: float
    call: float
    pixels: int


# Fitted to the times of 47 convolutions of 16 to 512 channels and maps of 8x8 to 128x128 with AVX-512, and of 42 of
# 4x4 to 112x112 with AVX2, where oneDNN's sums are slower beside ours. Pixels: 126 1x1 convolutions with AVX2.
COSTS = {"fwd": Costs(1.1, 45, 4e6, 64), "dgrad": Costs(1.1, 45, 4e6, 64), "wgrad": Costs(1.2, 45, 4e6, 256)}
AVX2_COSTS = {"fwd": Costs(1.3, 45, 4e6, 32), "dgrad": Costs(1.3, 30, 8e6, 16), "wgrad": Costs(1.3, 30, 8e6, 64)}
TRANSFORMED, DIRECT_IN_TIME = 15, 1.0  # a value of a transformed tile; as `direct`, with taps in time
FEW_WEIGHTS = 1 << 17  # a 1x1 weight is large above this
# In bfloat16 products and maps take half the time on both sides, the weight gradient's sums as long as in float32.
# Fitted to 15 convolutions of 16 to 512 channels. oneDNN's weight gradient of videos runs in float32: see `onednn`.
BF16_DIRECT, BF16_PACKED, BF16_CALL, BF16_WGRAD_IN_TIME = 0.9, {"fwd": 30, "dgrad": 30, "wgrad": 60}, 8e6, 2.7


_watched = environment.watch(VARIABLE)
_answers: dict[tuple, tuple[ModuleType | None, ...]] = {}  # `select_kernels` is called by every layer
MOST_ANSWERS = 4096


def select_kernels(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> tuple[ModuleType | None, ...]:
    """The own kernels that each of `PASSES` runs on: `thin`, `depthwise`, `winograd` or `matmul`; None for oneDNN's."""
    question = (weight.shape, weight.dtype, geometry, torch.get_num_threads(), *_watched())  # `settings`, a call less
    for source in sources:
        x = source.x
        question += (x.shape, x.dtype)
    found = _answers.get(question)
    if found is None:
        if len(_answers) >= MOST_ANSWERS:
            _answers.clear()
        asked = os.environ.get(VARIABLE)
        found = _answers[question] = tuple([_own(which, sources, weight, geometry, asked) for which in PASSES])
    return found


def settings() -> tuple[Any, ...]:
    """What the choice depends on besides the convolution."""
    return torch.get_num_threads(), *_watched()


def _own(
    which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry, asked: str | None
) -> ModuleType | None:
    if asked not in (None, "", "own", "onednn"):
        raise ValueError(f"{VARIABLE} must be own or onednn, got {asked!r}.")
    if asked == "onednn" or (asked != "own" and sources[0].x.dtype == torch.bfloat16 and not native.multiplies_bf16()):
        return None
    if thin.fits(sources, weight, geometry):
        return thin
    if depthwise.fits(sources, weight, geometry):
        return depthwise
    fits = winograd.fits(sources, weight, geometry)
    if fits and (asked == "own" or winograd_is_faster(which, sources, weight, geometry)):
        return winograd
    if matmul.fits(sources, weight, geometry) and (
        asked == "own" or matmul_is_faster(which, sources, weight, geometry)
    ):
        return matmul
    return None


def exact_enough(kernels: ModuleType | None, g: Source, sources: Sequence[Source]) -> ModuleType | None:
    """The own kernels that were selected for the weight gradient, where they keep the rule for errors; else None.

    Winograd rounds bfloat16's transformed values. Stock torch rounds the activation and G instead, but where both are
    maps as they are stored, or ReLUs of such: there Winograd's error was 2.1 to 2.6 times stock's, elsewhere up to 1.8.
    """
    if kernels is not winograd or g.x.dtype != torch.bfloat16 or os.environ.get(VARIABLE) == "own":
        return kernels
    return None if all(s.mean is None and s.addend is None for s in (g, *sources)) else kernels


def matmul_is_faster(which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether a pass is faster as a matrix product of ours than with oneDNN between our own elementwise kernels.

    It is with one tap, and with taps in time alone, where oneDNN's kernels reach half the speed of those. With taps in
    a frame, whose activations are read once a tap, ours take 0.9 to 1.6 times as long.
    """
    if math.prod(weight.shape[-2:]) > 1:
        return False
    pixels = len(sources[0].x) * math.prod(winograd.output_shape(sources[0].x.shape, weight.shape, geometry)[2:])
    return pixels >= costs(which).pixels or weight.numel() <= FEW_WEIGHTS


def winograd_is_faster(which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether a pass that the Winograd kernels can compute is faster there than with oneDNN."""
    x = sources[0].x
    if torch_is_slow(x.shape, sum(source.x.shape[1] for source in sources), weight.shape, torch.get_num_threads()):
        return True
    y = torch.Size(winograd.output_shape(x.shape, weight.shape, geometry))
    correlation = winograd.dgrad_shape if which == "dgrad" else winograd.forward_shape
    shape = correlation(x.shape, y, weight.shape, geometry)
    if x.dtype == torch.bfloat16:
        return winograd_work(shape, BF16_PACKED[which]) <= bf16_direct_work(shape, which)
    tile = winograd.tile(shape, x.dtype, of_weight=which == "wgrad")
    return winograd_work(shape, costs(which).packed, tile) <= direct_work(shape, which)


@functools.lru_cache(winograd.REMEMBERED)
def torch_is_slow(x: torch.Size, channels: int, weight: torch.Size, threads: int) -> bool:
    """Whether torch leaves a convolution of x's batch and space to its own slow_conv3d, not to oneDNN.

    That is a single video (on one thread any batch of videos) with N * C * T * H up to 20480 and 3 taps a side.
    """
    if len(x) != 5 or weight[-1] > 3 or (x[0] > 1 and threads > 1):
        return False
    return x[0] * channels * x[2] * x[3] <= 20480


def costs(which: str) -> Costs:
    """Those of the instruction set in use."""
    return (AVX2_COSTS if native.isa() == "avx2" else COSTS)[which]


def winograd_work(shape: winograd.ConvShape, packed: float, tile: int = 2) -> float:
    """The work of a pass on the own kernels, `packed` for a value of the weight; `tile` outputs a side in SAME.

    See csrc/conv_block/cpu/winograd.h for its tiles, blocks and places.
    """
    same, up = shape.kind == winograd.SAME, shape.kind == winograd.UP
    steps = (shape.dilation_h, shape.dilation_w) if same else (2, 2) if up else (1, 1)
    rows, columns = (
        math.ceil(math.ceil(length / step) / (tile if same else 3))
        for length, step in zip((shape.height_out, shape.width_out), steps, strict=True)
    )
    tiles = shape.batch * shape.frames_out * math.prod(steps) * rows * columns
    stored = 36 if same and tile == 4 else 16
    alone = same and tile == 2 and rows == columns == 1
    places = 9 if alone else 49 / 4 if not same and shape.kernel == 3 else stored
    inputs = shape.kernel_t * (4 if shape.kind == winograd.DOWN else 1)  # of a tile
    blocks = shape.kernel_t * (1 if same else 4)
    pairs = shape.channels_in * shape.channels_out
    transformed = stored * tiles * (inputs * shape.channels_in + shape.channels_out)
    return tiles * inputs * places * pairs + TRANSFORMED * transformed + packed * stored * blocks * pairs


def direct_work(shape: winograd.ConvShape, which: str) -> float:
    """The work of a pass with oneDNN in float32."""
    return products(shape, which) * (DIRECT_IN_TIME if shape.kernel_t > 1 else costs(which).direct) + costs(which).call


def bf16_direct_work(shape: winograd.ConvShape, which: str) -> float:
    """The work of a pass with oneDNN in bfloat16."""
    in_float = which == "wgrad" and shape.kernel_t > 1
    return products(shape, which) * (BF16_WGRAD_IN_TIME if in_float else BF16_DIRECT) + BF16_CALL


def products(shape: winograd.ConvShape, which: str) -> float:
    """Multiplications of a direct sum, without taps that fall on padding, which oneDNN leaves out but in wgrad."""
    up = shape.kind == winograd.UP
    size = (shape.height_in, shape.width_in) if up else (shape.height_out, shape.width_out)
    taps = shape.batch * shape.frames_out * shape.kernel_t * shape.kernel**2 * math.prod(size)
    if shape.kind == winograd.SAME and which != "wgrad":
        taps *= math.prod(map(live_share, size, (shape.dilation_h, shape.dilation_w)))
    return taps * shape.channels_in * shape.channels_out


def live_share(length: int, dilation: int) -> float:
    """The share of three taps along an axis that do not fall on padding."""
    return live_taps(length, length, 3, 1, dilation, dilation) / (3 * length)
