"""Large maps, which are stored past the caches, have the same values as small ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import select, thin, winograd
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.types import Source
from tests.ops.conv_block.cpu.cases import Case, Inputs

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))

ENDS = {"thin_to_wide": (3, 16), "wide_to_thin": (16, 3), "wide_to_wide": (16, 16)}


def samples(inputs: Inputs, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """y, dx and daddend of some of the samples."""
    (x, mean, scale, shift, clamps, addend), dy = inputs.sources[0], inputs.dy[begin:end]
    sources = [Source(x[begin:end], mean, scale, shift, clamps, addend[begin:end])]
    y = cpu.fwd(sources, inputs.weight, inputs.bias, inputs.geometry, True)[0]
    grads, _, _ = cpu.bwd(dy, None, None, y, None, sources, inputs.weight, inputs.geometry, [True], False, False)
    return y, grads[0].x, grads[0].addend


@pytest.mark.parametrize("channels", ENDS.values(), ids=ENDS)
def test_two_samples_equal_single_ones(channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "own")
    inputs = Inputs(Case("large", ((channels[0], "ard"),), channels[1], (257, 261), (3, 3), (1, 1), (1, 1), (1, 1)))
    kernels = winograd if min(channels) == 16 else thin
    assert select.select_kernels(inputs.sources, inputs.weight, inputs.geometry) == (kernels,) * 3
    both = samples(inputs, 0, 2)
    assert max(result.nbytes for result in both) > 8 << 20
    for i in range(2):
        for name, result, alone in zip(("y", "dx", "daddend"), both, samples(inputs, i, i + 1), strict=True):
            assert torch.equal(result[i], alone[0]), name


def test_a_map_without_statistics_is_the_same() -> None:
    inputs = Inputs(Case("large", ((3, ""),), 32, (257, 261), (3, 3), (1, 1), (1, 1), (1, 1), batch=1))
    args = (inputs.sources, inputs.weight, inputs.bias, inputs.geometry)
    y = cpu.fwd(*args, False)[0]
    assert y.nbytes > 8 << 20
    assert torch.equal(y, cpu.fwd(*args, True)[0])
