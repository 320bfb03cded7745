"""What only a GPU can show: a layer's forward and backward captured in a CUDA graph, and tiles of 8 warps."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops import triton_support
from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block import triton_launch as launch
from tests.triton.ops.cases import CASES, inputs
from tests.triton.ops.test_conv_block import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(triton_support.INTERPRETING or not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("name", ["2d-concat", "2d-transposed", "3d-strided"])
def test_a_layer_can_be_captured(name):
    given = inputs(CASES[name], torch.bfloat16)
    needs = [True] * len(given.sources)

    def step():
        y, mean, var = conv_block.fwd(*given)
        grads = conv_block.bwd(y, mean, var, y, mean, given.sources, given.weight, given.geometry, needs, True, False)
        return y, grads[0][0].x, grads[1]

    expected = [t.clone() for t in step()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for t in captured:
        t.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, expected))


@pytest.mark.parametrize("name", ["2d", "3d", "2d-dilated-dead-taps", "2d-concat"])
def test_eight_warps(name, monkeypatch):
    """Flattened loops over taps were reported to miscompile at 8 warps: the same rule holds there."""
    monkeypatch.setattr(launch, "best", lambda tiles, work: launch.Tile(128, 128, 64 // (work.itemsize // 2), 8, 3))
    for dtype in (torch.bfloat16, torch.float32):
        run(CASES[name], dtype)
