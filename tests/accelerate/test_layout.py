"""Weights that change their layout, and optimisers that go through memory by address alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration import layout


def trained(net: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Tensor]:
    for seed in range(steps):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("change", ["between steps", "before a checkpoint is loaded", "with gradients of before"])
def test_fused_optimizers_follow_a_change_of_layout(kind: type[torch.optim.Optimizer], change: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    options = {"lr": 0.01, "fused": True} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    ours = copy.deepcopy(plain)
    first = kind(ours.parameters(), **options)
    trained(ours, first, 2)
    saved = copy.deepcopy(first.state_dict())
    optimizer = first
    if change == "with gradients of before":
        layout.set_weights(ours, True)
        first.step()  # with the gradients of the last step
    else:
        fastinpaint.accelerate(ours, objective="fuse")
        layout.set_weights(ours, True)
        if change == "before a checkpoint is loaded":
            optimizer = kind(ours.parameters(), **options)
            optimizer.load_state_dict(saved)
    theirs = kind(plain.parameters(), **options)
    trained(plain, theirs, 2)
    if change == "with gradients of before":
        theirs.step()
    expected = trained(plain, theirs, 1)
    for name, value in trained(ours, optimizer, 1).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("how", ["the wrapper", "the wrapped model", "restored"])
def test_weights_that_ddp_has_buckets_for_keep_their_layout(how: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    plain, x = copy.deepcopy(net), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    if how == "restored":
        fastinpaint.accelerate(net, objective="fuse")
    wrapper = nn.parallel.DistributedDataParallel(net)
    if how == "restored":
        fastinpaint.restore(net)
    else:
        fastinpaint.accelerate(wrapper if how == "the wrapper" else net, objective="fuse")
    for model in (wrapper, plain):
        model(x).square().mean().backward()
    for ours, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-9, atol=1e-12)
