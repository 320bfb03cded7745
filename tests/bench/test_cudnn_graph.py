"""cuDNN's frontend accepts the definition of the graph. Building and running it needs a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import cudnn_graph


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_frontend_takes_the_definition(dtype: torch.dtype) -> None:
    pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
    x = torch.randn(2, 16, 4, 6).to(dtype, memory_format=torch.channels_last)
    defined = cudnn_graph.define(x, torch.ones(16), torch.zeros(16))
    assert len(defined.pack) == 7
    assert len(defined.statistics) == 4  # saved mean and inverse deviation, next running mean and variance
    assert all(tuple(node.get_dim()) == (1, 16, 1, 1) for node in defined.statistics)
    (node,) = (node for node, tensor in defined.pack.items() if tensor is x)
    assert tuple(node.get_dim()) == x.shape
    assert tuple(node.get_stride()) == x.stride()
    assert not defined.result.get_is_virtual()
    assert tuple(defined.result.get_stride()) == x.stride()  # the result is written where channels-last has it
    calls = ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans",
             "get_workspace_size", "execute")  # fmt: skip
    assert not [name for name in calls if not hasattr(defined.graph, name)]


def test_without_a_gpu_it_says_why_not() -> None:
    assert cudnn_graph.why_not(torch.device("cpu")) == "cuDNN's graph needs a CUDA device."
