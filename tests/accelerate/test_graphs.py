"""torch.cuda.make_graphed_callables with graphs that capture nothing: the work runs where it would be captured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fastinpaint


class Net(nn.Module):
    """No nn.Sequential at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


@pytest.fixture
def graphs() -> Iterator[None]:
    """CUDA graphs and streams of torch's module, without a GPU."""
    nothing: dict[str, Any] = {
        "CUDAGraph": mock.MagicMock, "graph_pool_handle": lambda: None, "graph": lambda *_, **__: nullcontext(),
    }  # fmt: skip
    device: dict[str, Any] = {"synchronize": lambda: None, "Stream": lambda: None, "stream": lambda _: nullcontext()}
    with mock.patch.multiple(torch.cuda.graphs, **nothing), mock.patch.multiple(torch.cuda, **nothing, **device):
        yield


@pytest.mark.usefixtures("graphs")
def test_make_graphed_callables_takes_an_accelerated_model_in_a_row() -> None:
    torch.manual_seed(0)
    net = fastinpaint.accelerate(Net(), objective="fuse")
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(AssertionError, match="must not have hooks"):
        torch.cuda.make_graphed_callables(net, (x,))
    expected = copy.deepcopy(net)(x)
    graphed = torch.cuda.make_graphed_callables(nn.Sequential(net), (x,))
    y = graphed(x)
    assert type(y) is Tensor
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
