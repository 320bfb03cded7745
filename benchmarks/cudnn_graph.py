"""cuDNN's own fusion of batch norm and ReLU (graph pattern NormAddRelu), through nvidia-cudnn-frontend."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

EPS, MOMENTUM = 1e-5, 0.1


def why_not(device: torch.device) -> str | None:
    """Why the graph cannot be built here, in one sentence, or None."""
    if device.type != "cuda":
        return "cuDNN's graph needs a CUDA device."
    if importlib.util.find_spec("cudnn") is None:
        return "nvidia-cudnn-frontend is not installed."
    return None


class Graph(NamedTuple):
    """The pattern in cuDNN's frontend, before a plan is built.

    Attributes:
        graph: the `cudnn.pygraph`.
        pack: the input tensors by node, to call the graph with.
        result: the node of y.
        statistics: the nodes of the saved mean and rstd, and of both updated running statistics.
    """

    graph: Any
    pack: dict[Any, Tensor]
    result: Any
    statistics: list[Any]


def define(x: Tensor, weight: Tensor, bias: Tensor, handle: Any = None) -> Graph:
    """Define batch norm with x's own statistics, then ReLU. Needs no device."""
    import cudnn

    wide = cudnn.data_type.FLOAT
    narrow = cudnn.data_type.BFLOAT16 if x.dtype == torch.bfloat16 else cudnn.data_type.HALF
    graph = cudnn.pygraph(io_data_type=narrow, intermediate_data_type=wide, compute_data_type=wide, handle=handle)
    vector = (1, x.shape[1], 1, 1)
    given = {
        "input": x,
        "scale": weight.view(vector),
        "bias": bias.view(vector),
        "in_running_mean": torch.zeros(vector, device=x.device),
        "in_running_var": torch.ones(vector, device=x.device),
        "epsilon": torch.full((1, 1, 1, 1), EPS),  # both stay on the host
        "momentum": torch.full((1, 1, 1, 1), MOMENTUM),
    }
    nodes = {name: graph.tensor_like(tensor) for name, tensor in given.items()}
    normalised, *statistics = graph.batchnorm(name="norm", **nodes)
    result = graph.relu(name="relu", input=normalised)
    result.set_output(True).set_dim(list(x.shape)).set_stride(list(x.stride()))  # not inferred by all versions
    for node in statistics:
        node.set_output(True).set_data_type(wide).set_dim(list(vector)).set_stride([x.shape[1], 1, 1, 1])
    return Graph(graph, {nodes[name]: tensor for name, tensor in given.items()}, result, statistics)


def norm_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    """Return a callable that normalises x ``[N, C, H, W]`` (channels-last) by its batch statistics and applies ReLU.

    Args:
        x: bfloat16 or float16, on a CUDA device.
        weight, bias: ``[C]``, float32.

    Raises:
        cudnn.cudnnGraphNotSupportedError: this cuDNN has no engine for the pattern on this device.
    """
    import cudnn

    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(x.device).cuda_stream)
    graph, pack, result, statistics = define(x, weight, bias, handle)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    y = torch.empty_like(x)
    pack = pack | {result: y} | {node: torch.empty((1, x.shape[1], 1, 1), device=x.device) for node in statistics}
    workspace = torch.empty(graph.get_workspace_size(), device=x.device, dtype=torch.uint8)

    def run() -> Tensor:
        graph.execute(pack, workspace, handle=handle)
        return y

    return run
