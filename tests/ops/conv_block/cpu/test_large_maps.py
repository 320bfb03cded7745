"""Large maps, which are stored past the caches, have the same values as small ones."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import depthwise, matmul, select, thin, winograd
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.types import Source
from tests.ops.conv_block.cpu.cases import Case, Inputs

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))

SPACE, ONE = (257, 261), (1, 1)  # two samples of 16 channels are past 8 MiB, one is not
CASES = {
    Case("thin_to_wide", ((3, "ard"),), 16, SPACE, (3, 3), ONE, ONE, ONE): thin,
    Case("wide_to_thin", ((16, "ard"),), 3, SPACE, (3, 3), ONE, ONE, ONE): thin,
    Case("wide_to_wide", ((16, "ard"),), 16, SPACE, (3, 3), ONE, ONE, ONE): winograd,
    Case("larger_tiles", ((64, "ard"),), 64, (131, 133), (3, 3), ONE, ONE, ONE): winograd,
    Case("up", ((16, "ard"),), 64, (67, 261), (4, 4), (2, 2), ONE, ONE, True): winograd,
    Case("down", ((16, "ard"),), 64, SPACE, (4, 4), (2, 2), ONE, ONE): winograd,
    Case("one_tap", ((16, "ard"),), 48, SPACE, ONE, ONE, (0, 0), ONE): matmul,
    Case("one_tap_of_silu", ((48, "ad silu"),), 16, SPACE, ONE, ONE, (0, 0), ONE): matmul,
    Case("depthwise", ((80, "ard"),), 80, (67, 261), (3, 3), ONE, ONE, ONE, groups=80): depthwise,
    Case("depthwise_down", ((16, "ad silu"),), 16, SPACE, (5, 5), (2, 2), (2, 2), ONE, groups=16): depthwise,
}


def samples(inputs: Inputs, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """y, dx and daddend of some of the samples."""
    (x, mean, scale, shift, clamps, addend), dy = inputs.sources[0], inputs.dy[begin:end]
    sources = [Source(x[begin:end], mean, scale, shift, clamps, addend[begin:end])]
    y = cpu.fwd(sources, inputs.weight, inputs.bias, inputs.geometry, True)[0]
    grads, _, _ = cpu.bwd(dy, None, None, y, None, sources, inputs.weight, inputs.geometry, [True], False, False)
    return y, grads[0].x, grads[0].addend


@pytest.mark.parametrize(("case", "kernels"), CASES.items(), ids=[case.name for case in CASES])
def test_two_samples_equal_single_ones(case: Case, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "own")
    inputs = Inputs(case)
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
