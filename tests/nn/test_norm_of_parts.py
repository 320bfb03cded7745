"""Batch norms over concatenated raw maps, as dense blocks have them: exact, and each map and its statistics once."""

from __future__ import annotations

import copy
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.acceleration.kept import kept_bytes
from fastinpaint.nn import raw

GROWTH, FIRST, LAYERS = 4, 6, 5


class Dense(nn.Module):
    """A stem that pools, a dense block, and a norm over all of it.

    Args:
        act: the activation after every norm.
        growing: whether each layer concatenates to the map before it, not the whole list.
        steps: calls `_layer`, perhaps under a checkpoint.
    """

    def __init__(self, act: type[nn.Module] = nn.ReLU, growing: bool = False, track: bool = True) -> None:
        super().__init__()
        widths = [FIRST + GROWTH * i for i in range(LAYERS)]
        self.stem, self.growing = nn.Conv2d(3, FIRST, 3, padding=1), growing
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, track_running_stats=track) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, GROWTH, 3, padding=1, bias=False) for width in widths)
        self.act = act()
        self.last = nn.BatchNorm2d(FIRST + GROWTH * LAYERS)
        self.checkpointed = False

    def _layer(self, i: int, *maps: Tensor) -> Tensor:
        return self.convs[i](self.act(self.norms[i](torch.cat(maps, 1))))

    def forward(self, x: Tensor) -> Tensor:
        maps = [nn.functional.max_pool2d(self.stem(x), 2)]
        for i in range(LAYERS):
            new = checkpoint(self._layer, i, *maps, use_reentrant=False) if self.checkpointed else self._layer(i, *maps)
            maps = [torch.cat([*maps, new], 1)] if self.growing else [*maps, new]
        return self.act(self.last(torch.cat(maps, 1))).mean((2, 3))


def randomised(net: Dense) -> Dense:
    torch.manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return net.double()


def steps(net: nn.Module) -> list[Tensor]:
    """Results, gradients and buffers of two training steps, then results in evaluation."""
    found, generator = [], torch.Generator().manual_seed(0)
    for _ in range(2):
        x = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=generator).requires_grad_()
        y = net(x)
        net.zero_grad()
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found += [y.detach(), x.grad, *(p.grad.clone() for p in net.parameters()), *(b.clone() for b in net.buffers())]
    net.eval()
    found.append(net(x).detach())
    with torch.no_grad():
        found.append(net(x))
    return found


@pytest.mark.parametrize("growing", [False, True], ids=["list", "growing"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU], ids=["relu", "silu"])
@pytest.mark.parametrize("memory", ["default", "low"])
def test_a_dense_block_is_exact(act: type[nn.Module], growing: bool, memory: str) -> None:
    net = randomised(Dense(act, growing))
    fast = fastinpaint.accelerate(copy.deepcopy(net), memory=memory)
    for ours, expected in zip(steps(fast), steps(net), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


def test_without_running_statistics() -> None:
    net = randomised(Dense(track=False))
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    for ours, expected in zip(steps(fast), steps(net), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


def test_under_a_checkpoint() -> None:
    net = randomised(Dense())
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    net.checkpointed = fast.checkpointed = True
    for ours, expected in zip(steps(fast), steps(net), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


def test_no_concatenated_map_is_kept() -> None:
    """Of the dense block: its raw maps, vectors, and the copy that ``cat`` makes of the first map alone."""
    net = fastinpaint.accelerate(randomised(Dense()))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    kept = kept_bytes(lambda: net(x).sum(), net.parameters())
    pixels = 8 * 2 * 32 * 32  # bytes of a channel
    stem = x.nbytes + 4 * FIRST * pixels + FIRST * pixels  # its input, and its result and the pool's places
    block = (2 * FIRST + GROWTH * LAYERS) * pixels
    assert kept <= 1.02 * (stem + block) + (FIRST + GROWTH * LAYERS) * pixels  # the last activation's mask or map


@pytest.mark.parametrize("growing", [False, True], ids=["list", "growing"])
def test_statistics_are_computed_once_a_map(growing: bool) -> None:
    net = fastinpaint.accelerate(randomised(Dense(growing=growing)))
    seen: list[int] = []

    def counting(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        seen.append(x.shape[1])
        return before(x, backend=backend)

    before = raw.batch_stats
    with patch.object(raw, "batch_stats", counting):
        net(torch.randn(2, 3, 12, 12, dtype=torch.float64))
    # the convolutions' own come with their results; the first norm reads a copy of the pooled map
    assert seen == [FIRST] * 2


def test_a_changed_map_has_new_statistics() -> None:
    """The pooled map is changed in place between two norms that read it."""

    class Changing(Dense):
        def forward(self, x: Tensor) -> Tensor:
            first = nn.functional.max_pool2d(self.stem(x), 2)
            one = self._layer(1, first, self.convs[0](first))
            other = self.convs[0](first)
            _ = one.sum() + other.sum()  # both run before the change
            with torch.no_grad():
                first.mul_(2)
            return (self.norms[2](torch.cat([first, one, other], 1)) ** 3).mean((2, 3))

    net = randomised(Changing())
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(fast(x), net(x), rtol=1e-10, atol=1e-11)
