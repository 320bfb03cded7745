"""Zero padding expressed as geometry equals written zeros."""

from __future__ import annotations

import random
import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.ops.conv_block import checks, conv_block, zero_padding
from fastinpaint.ops.conv_block.zero_padding import Zeros, absorbed
from fastinpaint.ops.types import Geometry
from tests.ops.common import BACKENDS


def written(x: Tensor, around: Zeros) -> Tensor:
    return F.pad(x, [end for ends in reversed(around) for end in ends])


def test_random_geometries_equal_written_zeros() -> None:
    rng, generator, taken = random.Random(0), torch.Generator().manual_seed(0), {False: 0, True: 0}
    for _ in range(1000):
        transposed = rng.random() < 0.7
        kernel, stride, dilation = (
            [rng.choice(choices) for _ in "hw"] for choices in ((1, 2, 3, 4), (1, 2, 3), (1, 2))
        )
        padding = [rng.randint(0, 4) for _ in "hw"]
        extra = [rng.randint(0, max(s, d) - 1) if transposed else 0 for s, d in zip(stride, dilation, strict=True)]
        geometry = Geometry(*map(tuple, (stride, padding, dilation, extra)), transposed)
        around = tuple((rng.randint(0, 2), rng.randint(0, 2)) for _ in "hw")
        found = absorbed(geometry, around)
        x, weight = (torch.randn(shape, generator=generator).double() for shape in ((1, 2, 5, 4), (2, 2, *kernel)))
        if isinstance(found, str):
            continue
        try:
            expected = torch.ops.aten.convolution(
                written(x, around), weight, None, stride, padding, dilation, transposed, extra, 1
            )
        except RuntimeError:
            continue  # the kernel does not fit
        shape = checks.check_weight(x.shape, weight, None, found)
        y = zero_padding.convolution(x, weight, None, found)
        assert y.shape == shape == expected.shape
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        taken[transposed] += 1
    assert min(taken.values()) > 20, taken


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_in_front_of_a_transposed_convolution(backend: str) -> None:
    """Four taps in time, stride 1: a frame of zeros in front crops a frame at the end."""
    geometry = Geometry((1, 2, 2), (2, 1, 1), (1, 1, 1), (0, 0, 0), True)
    found = absorbed(geometry, ((1, 0), (0, 0), (0, 0)))
    assert found == geometry._replace(padding=(1, 1, 1), output_padding=(-1, 0, 0))
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator).double() for s in ((2, 3, 3, 4, 5), (3, 2, 4, 4, 4)))
    leaves = [t.requires_grad_() for t in (x, weight)]
    expected = F.conv_transpose3d(written(x, ((1, 0), (0, 0), (0, 0))), weight, None, (1, 2, 2), (2, 1, 1))
    options = {"padding": found.padding, "output_padding": found.output_padding, "stride": found.stride}
    y = conv_block(x, weight, transposed=True, backend=backend, **options)
    dy = torch.randn(expected.shape, generator=generator).double()
    ours, theirs = (torch.autograd.grad(result, leaves, dy) for result in (y, expected))
    for mine, other in zip((y, *ours), (expected, *theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("geometry", "around", "sentence"),
    [
        (Geometry((1, 1), (1, 1), (1, 1), (0, 0)), ((0, 0), (2, 0)), "ends of an axis alike, .* 2 and 0 zeros"),
        (Geometry((2, 1), (1, 1), (1, 1), (0, 0), True), ((1, 1), (0, 0)), "would begin 1 rows before"),
        (Geometry((1, 1), (1, 1), (1, 1), (0, 0), True), ((0, 0), (0, 1)), "would end 1 rows behind"),
    ],
    ids=["ends that differ", "before", "behind"],
)
def test_padding_that_is_no_geometry_gives_a_reason(geometry: Geometry, around: Zeros, sentence: str) -> None:
    found = absorbed(geometry, around)
    assert isinstance(found, str)
    assert re.search(sentence, found)
