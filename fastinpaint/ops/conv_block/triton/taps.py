"""Every convolution as a gather whose taps are arithmetic progressions per output phase. The Triton kernels use this.

Along one axis, position q of phase f of the output reads these input positions, as far as they lie inside:

    out = out_stride * q + f      in = in_stride * q + first_offset + j * offset_step,   tap = first_tap + j * tap_step

for j = 0 .. count - 1. A convolution has one phase. A transposed one has `stride` phases, each with its own taps. The
input gradient of one kind is a gather of the other kind. Offsets grow with j, so the live taps of a tile (those that
touch the input) are a range of j. A program finds the range by two divisions and skips all other taps.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastinpaint.ops.types import Geometry


class Axis(NamedTuple):
    """One axis of a gather: strides and steps of all phases, and per phase (count, first tap, first offset)."""

    in_stride: int
    out_stride: int
    offset_step: int
    tap_step: int
    phases: tuple[tuple[int, int, int], ...]


class Gather(NamedTuple):
    """A gather over T, H, W from a map of size ``in_size`` to one of size ``out_size``."""

    axes: tuple[Axis, Axis, Axis]
    taps: tuple[int, int, int]
    in_size: tuple[int, int, int]
    out_size: tuple[int, int, int]

    @property
    def phase_count(self) -> int:
        return math.prod(a.out_stride for a in self.axes)

    @property
    def moves_in_time(self) -> bool:
        """Whether any position reads a frame other than its own."""
        return self.axes[0] != Axis(1, 1, 1, 1, ((1, 0, 0),)) or self.in_size[0] != self.out_size[0]

    def phase_size(self) -> tuple[int, ...]:
        """The size of the largest phase along each axis."""
        return tuple(-(-n // a.out_stride) for n, a in zip(self.out_size, self.axes, strict=True))


def strided_axis(taps: int, stride: int, padding: int, dilation: int) -> Axis:
    """out[q] = sum_k in[stride q + dilation k - padding] w[k]."""
    return Axis(stride, 1, dilation, 1, ((taps, 0, -padding),))


def phased_axis(taps: int, stride: int, padding: int, dilation: int) -> Axis:
    """out[stride q + f] = sum of in[q + (f + padding - dilation k) / stride] over the k for which that is an integer.

    These k are a progression of step stride / gcd(stride, dilation). In descending order their offsets grow.
    """
    shared = math.gcd(stride, dilation)
    phases = []
    for phase in range(stride):
        fitting = [k for k in range(taps) if (phase + padding - dilation * k) % stride == 0]
        last = fitting[-1] if fitting else 0
        phases.append((len(fitting), last, (phase + padding - dilation * last) // stride))
    # a single tap has no step
    tap_step = -(stride // shared) if taps > 1 else 1
    return Axis(1, stride, dilation // shared, tap_step, tuple(phases))


def as_video(values: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """Values for T, H, W; in 2D ``fill`` stands for T."""
    t, h, w = values if len(values) == 3 else (fill, *values)
    return t, h, w


def live_share(gather: Gather, block: tuple[int, ...]) -> float:
    """The share of taps that are live in tiles of that block, averaged over tiles and phases."""
    return math.prod(map(_live_share_of_axis, gather.axes, gather.taps, block, gather.in_size, gather.out_size))


def _live_share_of_axis(axis: Axis, taps: int, block: int, in_size: int, out_size: int) -> float:
    live = total = 0
    for phase, (count, _, first_offset) in enumerate(axis.phases):
        places = -(-(out_size - phase) // axis.out_stride)
        for start in range(0, places, block):
            low = start * axis.in_stride + first_offset
            high = (min(start + block, places) - 1) * axis.in_stride + first_offset
            live += sum(low + j * axis.offset_step < in_size and high + j * axis.offset_step >= 0 for j in range(count))
            total += 1
    return live * axis.out_stride / (total * taps)


class Problem(NamedTuple):
    """A convolution with its sizes ``T, H, W``. 2D has one tap in time; frames without a tap in time form one video.

    Attributes:
        samples: N, or 1 if samples are folded into time.
        small, large: sizes ``T, H, W`` of the strided and the dense map: y and x of a convolution, x and y of a
            transposed one.
    """

    samples: int
    taps: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    small: tuple[int, int, int]
    large: tuple[int, int, int]
    transposed: bool

    def _axes(self, phased: bool) -> tuple[Axis, Axis, Axis]:
        make = phased_axis if phased else strided_axis
        t, h, w = map(make, self.taps, self.stride, self.padding, self.dilation)
        return t, h, w

    @property
    def in_size(self) -> tuple[int, int, int]:
        return self.small if self.transposed else self.large

    @property
    def out_size(self) -> tuple[int, int, int]:
        return self.large if self.transposed else self.small

    def forward(self) -> Gather:
        """The gather that computes y from the activation."""
        return Gather(self._axes(self.transposed), self.taps, self.in_size, self.out_size)

    def backward(self) -> Gather:
        """The gather that computes the activation's gradient from G."""
        return Gather(self._axes(not self.transposed), self.taps, self.out_size, self.in_size)


@functools.lru_cache(maxsize=1024)
def gathers(conv: Problem) -> tuple[Gather, Gather, int, int]:
    """The forward and the backward gather, and how many phases each has, worked out once."""
    forward, backward = conv.forward(), conv.backward()
    return forward, backward, forward.phase_count, backward.phase_count


@functools.lru_cache(maxsize=1024)
def problem(x: tuple[int, ...], y: tuple[int, ...], taps: tuple[int, ...], geometry: Geometry) -> Problem:
    """Build a `Problem` from the shapes ``[N, C, *space]`` of input and output, the kernel size and the geometry."""
    kernel, stride = as_video(taps, 1), as_video(geometry.stride, 1)
    padding, dilation = as_video(geometry.padding, 0), as_video(geometry.dilation, 1)
    samples, x_size, y_size = x[0], as_video(x[2:], 1), as_video(y[2:], 1)
    if kernel[0] == stride[0] == 1 and padding[0] == 0 and x_size[0] == y_size[0]:
        x_size, y_size = (samples * x_size[0], *x_size[1:]), (samples * y_size[0], *y_size[1:])
        samples = 1
    small, large = (x_size, y_size) if geometry.transposed else (y_size, x_size)
    return Problem(samples, kernel, stride, padding, dilation, small, large, geometry.transposed)


@functools.lru_cache(maxsize=1024)
def phase_table(axes: tuple[Axis, Axis, Axis]) -> tuple[int, ...]:
    """Count, first tap and first offset of each axis and phase, with as many phases per axis as the largest out_stride.

    They are plain launch arguments. A tensor created here could lie in the memory pool of a captured graph.
    """
    most = max(a.out_stride for a in axes)
    rows = ([*a.phases, *[(0, 0, 0)] * (most - a.out_stride)] for a in axes)
    return tuple(number for phases in rows for phase in phases for number in phase)
