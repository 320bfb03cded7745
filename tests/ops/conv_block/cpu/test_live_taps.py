"""Convolutions whose outer taps meet only padding run without those taps: results against float64."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import matmul, select
from fastinpaint.ops.conv_block.cpu.live_taps import trimmed
from fastinpaint.ops.dispatch import native
from tests.ops.conv_block.cpu.cases import Case, Inputs, check_all

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))

CASES = (
    Case("centre", ((40, "ar"), (24, "d")), 32, (7, 8), (3, 3), (1, 1), (9, 8), (9, 8)),
    Case("row", ((32, "ar"),), 16, (4, 20), (3, 3), (1, 1), (4, 5), (4, 5)),
    Case("five_taps", ((20, "ar"),), 24, (5, 9), (5, 5), (1, 1), (8, 8), (4, 4)),
    Case("strided", ((32, "ar"),), 16, (9, 9), (3, 3), (2, 2), (10, 10), (10, 10)),
    Case("time", ((16, "ar"),), 32, (2, 6, 6), (3, 3, 3), (1, 1, 1), (2, 1, 1), (2, 1, 1)),
)
LEFT = ((1, 1), (1, 3), (3, 5), (1, 1), (1, 3, 3))
LUCK = {"var": 3.0, "mean": 3.0, "dmean": 3.0, "dshift": 3.0, "dscale": 3.0, "dbias": 5.0}


@pytest.mark.parametrize(("case", "left"), list(zip(CASES, LEFT, strict=True)), ids=[c.name for c in CASES])
def test_forward_and_gradients(case: Case, left: tuple[int, ...]) -> None:
    inputs = Inputs(case)
    weight, geometry, index = trimmed(inputs.sources, inputs.weight, case.geometry)
    assert weight.shape[2:] == left
    assert index is not None
    y = torch.nn.functional.conv2d if len(left) == 2 else torch.nn.functional.conv3d
    a = torch.randn(1, sum(c for c, _ in case.sources), *case.space)
    assert torch.allclose(
        y(a, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups),
        y(a, inputs.weight, None, case.stride, case.padding, case.dilation, case.groups),
        atol=1e-5,
    )
    check_all(inputs, LUCK)


def test_a_wide_dilation_runs_as_one_tap() -> None:
    inputs = Inputs(CASES[0])
    weight, geometry, _ = trimmed(inputs.sources, inputs.weight, CASES[0].geometry)
    assert select.select_kernels(inputs.sources, weight, geometry)[0] is matmul
    assert cpu.loads_activations(inputs.sources, inputs.weight, CASES[0].geometry)


def test_live_taps_are_kept() -> None:
    for case in (
        Case("same", ((16, ""),), 16, (4, 4), (3, 3), (1, 1), (3, 3), (3, 3)),
        Case("no_padding", ((16, ""),), 16, (9, 9), (3, 3), (1, 1), (0, 0), (4, 4)),
        Case("one_end", ((16, ""),), 16, (1, 1), (2, 2), (2, 2), (1, 1), (1, 1)),
        Case("depthwise", ((24, "ar"),), 24, (2, 6), (5, 3), (1, 1), (2, 1), (1, 1), groups=24),
        Case("thin", ((3, ""),), 16, (2, 6), (5, 3), (1, 1), (2, 1), (1, 1)),
        Case("transposed", ((16, ""),), 16, (1, 1), (3, 3), (2, 2), (1, 1), (1, 1), transposed=True),
    ):
        inputs = Inputs(case)
        assert trimmed(inputs.sources, inputs.weight, case.geometry)[2] is None, case.name
