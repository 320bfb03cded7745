"""Tests that need a GPU: graphs, streams, and the layout of tensor-core fragments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cuda
from fastinpaint.ops.dispatch import native
from tests.ops.cuda import small_cases, tf32
from tools.verify import emulated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    pytest.mark.skipif(native.why_not("cuda") is not None, reason=str(native.why_not("cuda"))),
]
CASES = ["stride 2, two sources", "transposed 3d", "4 channels in, 5x5", "3 channels out"]


def step(name: str, device: str, dtype: str = "bfloat16") -> list[Tensor]:
    """Forward and backward of a case: everything that comes out."""
    inputs = small_cases.conv_inputs(small_cases.CONVS[name], small_cases.DTYPES[dtype])
    with tf32.allowed(dtype == "tf32"):
        return results(*(small_cases.moved(v, device) for v in inputs))


def results(sources, weight, bias, geometry) -> list[Tensor]:
    y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
    needs = [True] * len(sources)
    grads, dweight, dbias = cuda.bwd(y, mean, var, y, mean, sources, weight, geometry, needs, True, True)
    return [t for t in (y, mean, var, dweight, dbias, *(t for g in grads for t in g)) if t is not None]


@pytest.mark.parametrize("name", CASES)
def test_a_graph_replays_the_same_bits(name: str) -> None:
    expected = step(name, "cuda")
    inputs = [small_cases.moved(v, "cuda") for v in small_cases.conv_inputs(small_cases.CONVS[name], torch.bfloat16)]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = results(*inputs)
    for tensor in found:
        tensor.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    for first, second in zip(found, expected, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", CASES)
def test_two_streams_do_not_disturb_each_other(name: str) -> None:
    expected = step(name, "cuda")
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in range(2)], []
    for stream in streams * 4:
        with torch.cuda.stream(stream):
            found.append(step(name, "cuda"))
    torch.cuda.synchronize()
    for one in found:
        for first, second in zip(one, expected, strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 3e-3), ("tf32", 1e-3)])
@pytest.mark.parametrize("name", CASES)
def test_tensor_cores_agree_with_the_emulation(name: str, dtype: str, tolerance: float) -> None:
    if (reason := emulated.why_not()) is not None:
        pytest.skip(reason)
    found = step(name, "cuda", dtype)
    with emulated.installed():
        expected = step(name, "cpu", dtype)
    for first, second in zip(found, expected, strict=True):
        near = tolerance * float(second.abs().max())
        assert torch.allclose(first.cpu().float(), second.float(), rtol=tolerance, atol=near)
