"""The own convolutions as matrix products against float64: 1x1 and other taps, strides, any channels, sources."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.conv_block.cpu import matmul, select
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.types import Geometry, Source
from tests.ops.conv_block.cpu.cases import (
    Case,
    Inputs,
    check_all,
    check_any_number_of_threads,
    check_channels_last_weight,
    check_large_mean,
    check_nan,
    check_needed_alone,
    judge,
)

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))

CASES = (
    Case("one_tap", ((24, "ar"),), 40, (9, 19), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("one_tap_strided", ((70, "ard"),), 33, (10, 13), (1, 1), (2, 2), (0, 0), (1, 1)),
    Case("deep", ((300, "ar"), (260, "d")), 80, (8, 7), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("wide", ((16, "ar"),), 300, (6, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("many_pixels", ((9, "ar"),), 20, (37, 41), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("three_taps", ((24, "ar"), (9, "rd")), 24, (9, 19), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("three_taps_strided", ((20, "ar"),), 40, (10, 13), (3, 3), (2, 2), (1, 1), (1, 1)),
    Case("seven_taps_strided", ((5, "ar"),), 24, (11, 9), (7, 7), (2, 2), (3, 3), (1, 1)),
    Case("dilated", ((12, "ar"),), 10, (12, 11), (3, 3), (2, 1), (2, 2), (2, 2)),
    Case("in_time", ((45, "ar"),), 64, (5, 6, 7), (3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),
    Case("in_time_strided", ((23, "ar"),), 20, (5, 6, 7), (3, 1, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1)),
    Case("in_plane", ((23, "ar"),), 45, (3, 6, 7), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)),
    Case("no_padding", ((7, ""),), 1, (3, 5), (2, 2), (2, 2), (0, 0), (1, 1)),
    Case("one_pass", ((24, "ar"), (9, "rd")), 40, (61, 43), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("one_pass_wide", ((16, "ar"),), 300, (83, 51), (1, 1), (1, 1), (0, 0), (1, 1), batch=1),
    Case(
        "one_pass_deep", ((300, "ar"), (5, "d")), 17, (9, 10, 47), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), batch=1
    ),
    Case("one_pixel", ((20, "ar"),), 30, (1, 1), (1, 1), (2, 2), (0, 0), (1, 1), batch=8),
)
# Stock torch's error in sums of few values is small by luck. These kernels do not compute dbias.
LUCK = {"var": 3.0, "mean": 3.0, "dmean": 3.0, "dshift": 3.0, "dscale": 3.0, "dbias": 5.0}


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "own")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_forward_and_gradients(case: Case) -> None:
    inputs = Inputs(case)
    assert select.select_kernels(inputs.sources, inputs.weight, case.geometry) == (matmul,) * 3
    check_all(inputs, LUCK)


def test_long_sums_stay_exact() -> None:
    for case in (
        Case("pixels", ((16, ""),), 24, (96, 96), (1, 1), (1, 1), (0, 0), (1, 1), batch=1),
        Case("depth", ((1100, ""),), 24, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1)),
    ):
        inputs = Inputs(case)
        judge("y", inputs.fwd(cpu)[0], inputs.fwd(reference)[0], inputs.exact[0])
        ours, stock, exact = inputs.bwd(cpu), inputs.bwd(reference), inputs.bwd(reference, double=True)
        for name in ("dx[0]", "dweight"):
            judge(name, ours[name], stock[name], exact[name])


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4], CASES[6], CASES[13]], ids=lambda c: c.name)
def test_same_for_any_number_of_threads_and_twice(case: Case) -> None:
    check_any_number_of_threads(Inputs(case))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_nan_reaches_all_that_depends_on_it(kernel: int, stride: int) -> None:
    x, weight = torch.randn(1, 5, 9, 9), torch.randn(20, 5, kernel, kernel)
    x[0, 2, 4, 4] = torch.nan
    geometry = Geometry((stride, stride), (kernel // 2,) * 2, (1, 1), (0, 0))
    check_nan(x, weight, geometry)


def test_large_mean() -> None:
    check_large_mean(1, torch.ones(7, 1, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0)))


@pytest.mark.parametrize("case", [CASES[2], CASES[13]], ids=lambda c: c.name)
def test_only_needed_gradients_are_computed(case: Case) -> None:
    check_needed_alone(Inputs(case), "addend")


def test_a_channels_last_weight_gives_the_same_results() -> None:
    check_channels_last_weight(Inputs(CASES[5]))


def test_empty_maps_and_groups_are_left_to_others() -> None:
    geometry = Geometry((1, 1), (0, 0), (1, 1), (0, 0))
    assert not matmul.fits([Source(torch.empty(0, 3, 8, 8))], torch.randn(5, 3, 1, 1), geometry)
    grouped = geometry._replace(groups=2)
    assert not matmul.fits([Source(torch.randn(1, 6, 8, 8))], torch.randn(4, 3, 1, 1), grouped)
