"""A test that needs a GPU: a layer's forward and backward captured in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.dispatch import triton_support
from tests.ops.triton.cases import CASES, inputs

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
