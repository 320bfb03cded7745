"""Small nets with batch norm after a convolution, used in all ways that affect whether both become one node."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastinpaint


class Net(nn.Module):
    """Two convolutions with a batch norm between, and the results of a step to compare."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.norm, self.other = nn.BatchNorm2d(12, **options), nn.BatchNorm2d(12)
        self.kind = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "convolution without gradients":
            with torch.no_grad():
                y = self.first(x)
            return self.second(torch.relu(self.norm(y)))
        if self.kind == "norm without gradients":
            y = self.first(x)
            with torch.no_grad():
                z = self.norm(y)
            return self.second(torch.relu(z))
        if self.kind == "two norms of one map":
            y = self.first(x)
            return self.second(torch.relu(self.norm(y)) + torch.relu(self.other(y)))
        if self.kind == "read before":
            y = self.first(x)
            return self.second(torch.relu(self.norm(y))) + y.square().mean()
        return self.second(self.block(x))

    def block(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.first(x)))


class Checkpointed(nn.Module):
    """The net under a checkpoint: backward runs its forward again."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


class Kind(NamedTuple):
    """A use of `Net`, with the number of batch norms fused with their convolution and of separate ones."""

    joined: int = 1
    apart: int = 0
    options: tuple[tuple[str, object], ...] = ()
    frozen: tuple[str, ...] = ()
    memory: str = "default"


KINDS = {
    "default": Kind(),
    "no affine": Kind(options=(("affine", False),)),
    "no running statistics": Kind(options=(("track_running_stats", False),)),
    "cumulative": Kind(joined=0, apart=1, options=(("momentum", None),)),
    "frozen convolution": Kind(frozen=("first.weight", "first.bias")),
    "frozen norm": Kind(frozen=("norm.weight", "norm.bias")),
    "frozen statistics": Kind(joined=0, apart=1),
    "checkpoint": Kind(joined=2),
    "convolution without gradients": Kind(joined=0, apart=1),
    "norm without gradients": Kind(joined=0),
    "two norms of one map": Kind(apart=1),
    "read before": Kind(),
    "low": Kind(memory="low"),
}


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = net(x)
    y.square().sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"y": y.detach(), **({} if x.grad is None else {"x": x.grad}), **grads, **dict(net.named_buffers())}


def nets(name: str, backend: str, device: torch.device | str = "cpu") -> tuple[nn.Module, nn.Module, Tensor]:
    """The plain net, the accelerated one, and an input."""
    torch.manual_seed(0)
    net = Net(**dict(KINDS[name].options)).to(device)
    net.kind = name
    for parameter in KINDS[name].frozen:
        net.get_parameter(parameter).requires_grad_(False)
    if name == "frozen statistics":
        net.norm.eval()
    wrapped = Checkpointed(net) if name == "checkpoint" else net
    fast = fastinpaint.accelerate(copy.deepcopy(wrapped), backend=backend, memory=KINDS[name].memory)
    return wrapped, fast, torch.randn(2, 8, 5, 4).to(device)


def check_step(net: nn.Module, fast: nn.Module, x: Tensor, tolerance: float = 1e-4) -> None:
    """One training step of both gives equal results."""
    got, expected = step(fast, x), step(net, x)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            got[key], value, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


def check_twice_differentiable(net: nn.Module, fast: nn.Module, x: Tensor, tolerance: float) -> None:
    """The gradients of an input gradient's square are the same."""
    found = []
    for model in (fast, net):
        y = model(x.requires_grad_())
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        dx.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)
