"""Taps as progressions per phase agree with the definition of a convolution, and dead taps are skipped."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.triton.taps import phased_axis, strided_axis
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.ops.types import Geometry, Source


@pytest.mark.parametrize(
    ("taps", "stride", "padding", "dilation"), itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2), (1, 2, 3))
)
def test_a_phased_axis_is_the_inverse_of_a_strided_one(taps, stride, padding, dilation):
    """Both have the same triples (position in the large map, position in the small map, tap)."""
    large, small = range(12), range(-2, 8)
    axis = strided_axis(taps, stride, padding, dilation)
    (count, first_tap, first_offset), *_ = axis.phases
    forward = {
        (axis.in_stride * q + first_offset + j * axis.offset_step, q, first_tap + j * axis.tap_step)
        for q in small
        for j in range(count)
    }
    axis = phased_axis(taps, stride, padding, dilation)
    assert axis.offset_step > 0
    backward = {
        (axis.out_stride * q + phase, q + first_offset + j * axis.offset_step, first_tap + j * axis.tap_step)
        for phase, (count, first_tap, first_offset) in enumerate(axis.phases)
        for q in range(12)
        for j in range(count)
    }
    assert {t for t in forward if t[0] in large} == {t for t in backward if t[0] in large and t[1] in small}
    assert all(t[0] == stride * t[1] + dilation * t[2] - padding for t in forward | backward)


@pytest.mark.parametrize(("dilation", "live"), [(1, 9), (4, 9), (5, 3), (9, 1)])
def test_dead_taps_take_no_step(dilation, live, monkeypatch):
    """On 5 x 9 positions, taps 5 rows or 9 columns away are dead in all three passes."""
    if not triton_support.INTERPRETING:
        return  # steps are counted where they are interpreted
    builder = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
    steps, upstream = [0], builder.create_dot

    def counted(self, *args):
        steps[0] += 1
        return upstream(self, *args)

    monkeypatch.setattr(builder, "create_dot", counted)
    geometry = Geometry((1, 1), (dilation,) * 2, (dilation,) * 2, (0, 0))
    source, weight = Source(torch.randn(1, 32, 5, 9)), torch.randn(32, 32, 3, 3)
    y, _, _ = conv_block.fwd([source], weight, None, geometry, False)
    assert steps == [2 * live]  # a step holds 16 of 32 channels
    steps[0] = 0
    conv_block.bwd(y, None, None, None, None, [source], weight, geometry, [True], False, False)
    assert steps == [2 * live]
    steps[0] = 0
    conv_block.bwd(y, None, None, None, None, [source], weight, geometry, [False], True, False)
    shown = [
        max(0, 5 - dilation * abs(h - 1)) > 0 and max(0, 9 - dilation * abs(w - 1)) > 0
        for h in range(3)
        for w in range(3)
    ]
    assert sum(shown) <= steps[0] <= 3 * sum(shown)  # a step holds 2 x 16 places
