"""Kernel sizes of 1 to 5 in time and dilations of 1 to 16 keep the accuracy rule in every pass."""

from __future__ import annotations

import pytest
import torch

from tests.ops.cuda import small_cases
from tests.ops.cuda.small_cases import Conv

DTYPE = torch.bfloat16


def both(conv: Conv, device: str) -> None:
    small_cases.check_fwd(conv, DTYPE, device)
    small_cases.check_bwd(conv, DTYPE, device)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", range(1, 6))
def test_kernels_in_time(taps: int, stride: int, device: str) -> None:
    both(Conv((5, 5, 6), (8,), (False,), 8, (taps, 3, 3), (stride, 1, 1), (taps // 2, 1, 1), (1, 1, 1)), device)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 4, 8, 16])
def test_dilations(dilation: int, stride: int, device: str) -> None:
    along = (stride, stride), (dilation, dilation), (dilation, dilation)
    both(Conv((19, 37), (8,), (True,), 16, (3, 3), *along), device)


@pytest.mark.parametrize("dilation", [2, 8])
def test_dilations_in_space_of_a_video(dilation: int, device: str) -> None:
    apart = (1, dilation, dilation)
    both(Conv((3, 10, 11), (8,), (False,), 8, (3, 3, 3), (1, 1, 1), apart, apart), device)


@pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])
@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 2)], ids=str)
def test_strides_that_differ(stride: tuple[int, int], transposed: bool, device: str) -> None:
    """Phases are counted separately for each axis."""
    both(Conv((7, 9), (8,), (False,), 16, (4, 3), stride, (1, 1), (1, 1), transposed), device)
