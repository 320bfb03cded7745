"""The depthwise kernels against float64: strides, dilations, edges, channel tails, sources, layouts."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.conv_block.cpu import depthwise, select
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.types import Geometry, Source
from tests.ops.conv_block.cpu.cases import (
    Case,
    Inputs,
    check_all,
    check_any_number_of_threads,
    check_large_mean,
    check_nan,
    check_needed_alone,
)

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))


def case(
    name: str, sources: tuple, space: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple
) -> Case:
    channels = sum(c for c, _ in sources)
    return Case(name, sources, channels, space, kernel, stride, padding, dilation, groups=channels)


CASES = (
    case("three_taps", ((24, "ar"),), (9, 19), (3, 3), (1, 1), (1, 1), (1, 1)),
    case("strided", ((70, "ard"),), (10, 13), (3, 3), (2, 2), (1, 1), (1, 1)),
    case("five_taps_strided", ((33, "a"), (80, "rd")), (14, 7), (5, 5), (2, 2), (2, 2), (1, 1)),
    case("seven_taps", ((24, "r"),), (9, 8), (7, 7), (1, 1), (3, 3), (1, 1)),
    case("seven_taps_strided", ((17, "ar"),), (15, 16), (7, 7), (2, 2), (3, 3), (1, 1)),
    case("columns_in_pieces", ((40, "ar"),), (3, 140), (3, 5), (1, 2), (0, 2), (1, 1)),
    case("rows_in_pieces", ((1, ""),), (70, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    case("dilated", ((20, "ar"), (3, "ad")), (12, 11), (3, 3), (1, 1), (2, 2), (2, 2)),
    case("dilated_and_strided", ((20, "ar"),), (12, 11), (3, 3), (2, 1), (2, 2), (2, 2)),
    case("video", ((36, "ar"),), (5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    case("video_in_time", ((19, "ar"),), (5, 6, 7), (3, 1, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1)),
    case("video_in_plane", ((16, "ar"),), (4, 6, 7), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)),
    case("taps_miss_phases", ((18, "ard"),), (9, 11), (1, 1), (2, 2), (0, 0), (1, 1)),
    case("padding_only", ((8, "ar"),), (1, 1), (5, 5), (2, 2), (2, 2), (1, 1)),
)
# Stock torch's error in sums of few values is small by luck. These kernels do not compute dbias.
LUCK = {"var": 3.0, "mean": 3.0, "dmean": 3.0, "dshift": 3.0, "dscale": 3.0, "dbias": 4.0}

EACH = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@EACH
def test_forward_and_gradients(case: Case) -> None:
    inputs = Inputs(case)
    chosen = select.select_kernels(inputs.sources, inputs.weight, case.geometry)
    assert chosen == (depthwise,) * 3
    check_all(inputs, LUCK)


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[6], CASES[9]], ids=lambda c: c.name)
def test_same_for_any_number_of_threads_and_twice(case: Case) -> None:
    check_any_number_of_threads(Inputs(case))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_nan_reaches_all_that_depends_on_it(stride: int) -> None:
    x, weight = torch.randn(1, 5, 9, 9), torch.randn(5, 1, 3, 3)
    x[0, 2, 4, 5] = torch.nan
    geometry = Geometry((stride, stride), (1, 1), (1, 1), (0, 0), groups=5)
    check_nan(x, weight, geometry)


def test_large_mean() -> None:
    check_large_mean(7, torch.ones(7, 1, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0), groups=7))


def test_only_needed_gradients_are_computed() -> None:
    check_needed_alone(Inputs(CASES[2]), "addend")


def test_a_map_that_is_stored_past_the_caches() -> None:
    inputs = Inputs(Case("large", ((64, "ar"),), 64, (192, 192), (3, 3), (1, 1), (1, 1), (1, 1), batch=1, groups=64))
    check_all(inputs, {name: factor for name, factor in LUCK.items() if name not in ("mean", "var")})


@pytest.mark.parametrize(
    ("weight", "geometry"),
    [
        ((16, 1, 8, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), groups=16)),
        ((16, 1, 3, 3), Geometry((3, 1), (1, 1), (1, 1), (0, 0), groups=16)),
        ((16, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), True, groups=16)),
        ((32, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), groups=16)),
        ((16, 2, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0), groups=8)),
    ],
    ids=["eight_taps", "stride_three", "transposed", "two_out_of_one", "two_into_one"],
)
def test_what_does_not_fit_is_left_to_others(weight: tuple[int, ...], geometry: Geometry) -> None:
    sources = [Source(torch.randn(1, 16, 12, 12))]
    assert not depthwise.fits(sources, torch.randn(weight), geometry)
    stock = reference.fwd(sources, torch.ones(weight), None, geometry, False)[0]
    torch.testing.assert_close(
        cpu.fwd(sources, torch.ones(weight), None, geometry, False)[0], stock, rtol=1e-5, atol=1e-5
    )


def test_empty_maps_are_left_to_torch() -> None:
    sources, weight = [Source(torch.empty(0, 3, 8, 8))], torch.randn(3, 1, 3, 3)
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0), groups=3)
    assert not depthwise.fits(sources, weight, geometry)
    assert cpu.fwd(sources, weight, None, geometry, False)[0].shape == (0, 3, 8, 8)
