"""The kernels between 1 to 4 channels and many, in both directions, against float64: strides, edges, tails, layouts."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.conv_block.cpu import select, thin
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

WIDEN = (
    Case("first_of_combcn", ((4, ""),), 64, (9, 19), (5, 5), (1, 1), (2, 2), (1, 1)),
    Case("first_of_3dcn", ((4, "ar"),), 16, (4, 9, 17), (5, 5, 5), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    Case("guidance", ((3, ""),), 128, (8, 16), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("three_sources", ((1, ""), (2, "ar"), (1, "d")), 48, (13, 35), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("strided", ((3, "ard"),), 80, (10, 13), (3, 4), (2, 2), (1, 2), (1, 1)),
    Case("strided_in_time", ((2, "ar"),), 32, (5, 9, 10), (5, 4, 7), (2, 2, 1), (2, 2, 2), (1, 1, 2)),
    Case("one_channel", ((1, "r"),), 48, (20, 40), (7, 7), (1, 2), (3, 0), (1, 1)),
    Case("dead_taps", ((4, "ar"),), 32, (3, 5), (3, 3), (1, 1), (8, 9), (8, 9)),
    Case("columns_in_pieces", ((2, ""),), 16, (2, 150), (1, 3), (1, 1), (0, 1), (1, 1)),
)
NARROW = (
    Case("last_of_combcn", ((32, "ar"),), 3, (9, 19), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("last_of_3dcn", ((16, "ar"),), 3, (4, 9, 17), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Case("many_sources", ((32, "ar"), (16, "rd"), (64, "ad")), 4, (9, 11), (5, 3), (1, 1), (2, 1), (1, 1)),
    Case("deep", ((528, "ar"),), 2, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("strided_to_one", ((64, "ar"),), 1, (4, 9, 11), (3, 2, 5), (2, 2, 2), (1, 0, 3), (2, 3, 1)),
    Case("taps_miss_phases", ((48, "ard"),), 2, (9, 11), (1, 1), (2, 2), (0, 0), (1, 1)),
    Case("no_padding", ((16, ""),), 4, (12, 33), (7, 2), (1, 1), (0, 0), (1, 2)),
)
# Stock torch's error in sums of few channels is small by luck.
LUCK = {"dmean": 4.0, "dshift": 3.0, "dscale": 3.0}

CASES = pytest.mark.parametrize("case", [*WIDEN, *NARROW], ids=lambda c: c.name)


@CASES
def test_forward_and_gradients(case: Case) -> None:
    inputs = Inputs(case)
    assert select.select_kernels(inputs.sources, inputs.weight, case.geometry) == (thin,) * 3
    check_all(inputs, LUCK)


def test_long_sums_stay_exact() -> None:
    for case in (
        Case("wide", ((4, ""),), 32, (3, 48, 64), (5, 5, 5), (1, 1, 1), (2, 2, 2), (1, 1, 1), batch=1),
        Case("deep", ((512, ""),), 3, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1), batch=1),
    ):
        inputs = Inputs(case)
        judge("y", inputs.fwd(cpu)[0], inputs.fwd(reference)[0], inputs.exact[0])
        ours, stock, exact = inputs.bwd(cpu), inputs.bwd(reference), inputs.bwd(reference, double=True)
        for name, value in ours.items():
            judge(name, value, stock[name], exact[name])


@pytest.mark.parametrize("case", [WIDEN[1], WIDEN[3], NARROW[0], NARROW[4]], ids=lambda c: c.name)
def test_same_for_any_number_of_threads_and_twice(case: Case) -> None:
    check_any_number_of_threads(Inputs(case))


@pytest.mark.parametrize(("channels", "channels_out"), [(3, 16), (16, 3)], ids=["widen", "narrow"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_nan_reaches_all_that_depends_on_it(channels: int, channels_out: int, stride: int) -> None:
    x, weight = torch.randn(1, channels, 9, 9), torch.randn(channels_out, channels, 3, 3)
    x[0, 2, 4, 5] = torch.nan
    geometry = Geometry((stride, stride), (1, 1), (1, 1), (0, 0))
    check_nan(x, weight, geometry)


def test_large_mean() -> None:
    check_large_mean(1, torch.ones(16, 1, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0)))


def test_only_needed_gradients_are_computed() -> None:
    check_needed_alone(Inputs(NARROW[2]), "addend")


@pytest.mark.parametrize("case", [WIDEN[2], NARROW[0], NARROW[1]], ids=lambda c: c.name)
def test_a_channels_last_weight_gives_the_same_results(case: Case) -> None:
    check_channels_last_weight(Inputs(case))


@pytest.mark.parametrize(
    ("weight", "geometry"),
    [
        ((16, 5, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0))),
        ((24, 3, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0))),
        ((16, 3, 8, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0))),
        ((16, 3, 3, 3), Geometry((3, 1), (1, 1), (1, 1), (0, 0))),
        ((3, 16, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), True)),
        ((16, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), groups=2)),
    ],
    ids=["five_channels", "24_channels", "eight_taps", "stride_three", "transposed", "groups"],
)
def test_what_does_not_fit_is_left_to_others(weight: tuple[int, ...], geometry: Geometry) -> None:
    channels = weight[0] if geometry.transposed else weight[1] * geometry.groups
    sources = [Source(torch.randn(1, channels, 12, 12))]
    assert not thin.fits(sources, torch.randn(weight), geometry)
    y = cpu.fwd(sources, torch.randn(weight), None, geometry, False)[0]
    assert y.shape[1] == (weight[1] if geometry.transposed else weight[0])


def test_onednn_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "onednn")
    inputs = Inputs(WIDEN[2])
    assert select.select_kernels(inputs.sources, inputs.weight, inputs.geometry) == (None,) * 3
    monkeypatch.setenv(select.VARIABLE, "own")
    assert select.select_kernels(inputs.sources, inputs.weight, inputs.geometry) == (thin,) * 3


def test_empty_maps_are_left_to_torch() -> None:
    sources, weight = [Source(torch.empty(0, 3, 8, 8))], torch.randn(16, 3, 3, 3)
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0))
    assert not thin.fits(sources, weight, geometry)
    assert cpu.fwd(sources, weight, None, geometry, False)[0].shape == (0, 16, 8, 8)
