"""Bytes kept for backward, counted by storages, at the paper's width."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.swap import swap, unswap
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.nn.pending_conv import PendingConv
from fastinpaint.ops import buffer_pool
from tests.ops.common import count_convolutions


def kept_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that a forward pass keeps, parameters excluded."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(size for address, size in sizes.items() if address not in own)


def test_a_step_leaves_no_tensor_to_the_garbage_collector() -> None:
    """A tensor in a reference cycle keeps its memory until the garbage collector runs, some steps later."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    fastinpaint.accelerate(net, memory="low")
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    net(x).sum().backward()
    gc.disable()
    gc.freeze()  # ignore existing objects
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        net(x).sum().backward()
        gc.collect()
        assert not [type(found) for found in gc.garbage if isinstance(found, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def test_backward_frees_each_map_when_its_layer_is_done() -> None:
    """Half way through backward, half of the maps are freed. None waits for the garbage collector."""
    layers = [(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(8)]
    net = fastinpaint.accelerate(nn.Sequential(*(module for layer in layers for module in layer)), backend="cpu")
    held: list[int] = []

    def note(_: Tensor) -> None:
        buffer_pool.clear()
        held.append(buffer_pool.memory.in_use // map_bytes)

    x = torch.rand(4, 16, 64, 64)
    map_bytes = x.nbytes
    assert map_bytes >= buffer_pool.LEAST_BYTES
    gc.collect()
    gc.disable()
    try:
        loss = net(x).square().mean()
        for convolution, *_ in layers:
            convolution.weight.register_hook(note)
        loss.backward()
    finally:
        gc.enable()
    others = 3  # the gradients in and out, and what the loss keeps
    assert len(held) == 8
    assert all(maps <= 8 - done + others for done, maps in enumerate(held, 1)), held


def test_the_full_system_at_paper_width() -> None:
    net = VideoCompletionNet(ModelConfig())
    video, mask = torch.rand(1, 3, 4, 128, 128), torch.zeros(1, 1, 4, 128, 128)
    mask[..., 32:80, 40:96] = 1

    def run() -> Tensor:
        return sum(result.mean() for result in net(video, mask))  # type: ignore[return-value]

    plain = kept_bytes(net, run)
    default = kept_bytes(fastinpaint.accelerate(net), run)
    low = kept_bytes(fastinpaint.accelerate(net, memory="low"), run)
    least = kept_bytes(fastinpaint.accelerate(net, memory="least"), run)
    assert default <= 0.3 * plain  # measured 0.295
    assert low <= 0.09 * plain  # measured 0.079
    assert least <= 0.02 * plain  # measured 0.004


@pytest.fixture
def chain() -> nn.Sequential:
    """Cheap convolutions, so that the tier "low" keeps none of their maps."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((2, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 1)).double()


def test_low_keeps_the_input_alone_of_all_maps(chain: nn.Sequential) -> None:
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    net = fastinpaint.accelerate(chain, memory="low")
    vectors = 10 * 8 * 8 * 4  # statistics, and batch norm's vectors
    assert kept_bytes(net, lambda: net(x).sum()) <= x.untyped_storage().nbytes() + vectors


@pytest.mark.parametrize("retain", [False, True])
def test_low_computes_each_map_again_once(chain: nn.Sequential, retain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = fastinpaint.accelerate(chain, memory="low"), torch.randn(2, 2, 16, 16, dtype=torch.float64)
    ran = count_convolutions(monkeypatch)
    loss = net(x).square().mean()
    assert len(ran) == 4
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=retain)
    assert len(ran) == 4 + 3  # the last convolution's result is no source
    if retain:
        second = torch.autograd.grad(loss, list(net.parameters()))
        assert len(ran) == 4 + 3 + 3
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_low_frees_what_it_computed(chain: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    net, slots, right = fastinpaint.accelerate(chain, memory="low"), [], PendingConv.prepare

    def watched(self: PendingConv, *arguments: object) -> object:
        found = right(self, *arguments)  # type: ignore[arg-type]
        if self.recipe is not None:
            slots.append(self.recipe.slot)
        return found

    monkeypatch.setattr(PendingConv, "prepare", watched)
    net(torch.randn(2, 2, 16, 16, dtype=torch.float64)).sum().backward()
    assert len(slots) >= 3
    assert all(slot.value is None for slot in slots)


def test_a_changed_weight_is_noticed_before_it_is_used_again(chain: nn.Sequential) -> None:
    net = fastinpaint.accelerate(chain, memory="low")
    loss = net(torch.randn(2, 2, 16, 16, dtype=torch.float64)).sum()
    with torch.no_grad():
        net[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_convolutions_are_computed_once(chain: nn.Sequential) -> None:
    """Nothing frees a map that no node of the graph made, so it is kept."""
    for parameter in chain[:3].parameters():
        parameter.requires_grad_(False)
    net = fastinpaint.accelerate(chain, memory="low")
    net(torch.randn(2, 2, 16, 16, dtype=torch.float64)).sum().backward()
    assert net[3].weight.grad is not None


@pytest.mark.parametrize("memory", ["default", "low"])
def test_double_backward_is_right(chain: nn.Sequential, memory: str) -> None:
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)

    def penalty(net: nn.Module) -> Tensor:
        (dx,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    expected = penalty(chain)
    torch.testing.assert_close(penalty(fastinpaint.accelerate(chain, memory=memory)), expected, rtol=1e-9, atol=1e-9)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.bn(self.conv(x)) + x)


def test_the_tier_sums_keeps_no_residual_sum() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(Residual(8) for _ in range(6))).double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    found = {}
    for tier in ("default", "sums"):
        swap(net, Plan(everything=True, memory=tier), "auto")
        maps = kept_bytes(net, lambda: net(x).sum()) / x.nbytes
        found[tier] = round(maps), torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
        unswap(net)
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    assert (found["default"][0], found["sums"][0]) == (13, 7)  # six outputs of convolutions, the input; six sums
    for _, grads in found.values():
        torch.testing.assert_close(grads, plain, rtol=1e-8, atol=1e-8)
