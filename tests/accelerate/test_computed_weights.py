"""Layers whose weight a function computes, by a parametrization or by a hook of torch's, are fused as any other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastinpaint
from fastinpaint.acceleration.links import record
from fastinpaint.nn import Deferred, layers
from tests.accelerate.nets import assert_same_step


class Doubled(nn.Module):
    """A parametrization that counts how often it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return 2 * weight


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return parametrize.register_parametrization(layer, "bias", Doubled())


def bias_alone(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "bias", Doubled())


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "own, of weight and bias": doubled,
    "own, of the bias alone": bias_alone,
    "weight_norm's hook, of the bias alone": lambda layer: nn.utils.weight_norm(layer, "bias"),
    "spectral_norm's hook": nn.utils.spectral_norm,
    "weight_norm's hook": nn.utils.weight_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


def net_with(way: str) -> nn.Module:
    """Convolutions of every kind, the first and the last with no norm, all with computed weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.InstanceNorm2d(4), nn.SiLU()),
        nn.Conv2d(4, 1, 3),
    ).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls the hooks deprecated
        for layer in net:
            if isinstance(layer, nn.modules.conv._ConvNd):
                WAYS[way](layer)
    return net


def small() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("way", WAYS)
def test_layers_with_computed_weights_are_fused(way: str, memory: str) -> None:
    net, fast = net_with(way), fastinpaint.accelerate(net_with(way), objective="fuse", memory=memory)
    assert len(fast.fastinpaint_report.swapped) == 9
    assert not fast.fastinpaint_report.left
    for _ in range(2):  # a power iteration goes on from its own buffers
        assert_same_step(fast, net, small())
        with torch.no_grad():
            for parameter, same in zip(fast.parameters(), net.parameters(), strict=True):
                parameter -= 0.1 * parameter.grad
                same -= 0.1 * same.grad
    assert_same_step(fast.eval(), net.eval(), small())
    fast.load_state_dict(net.state_dict())
    fastinpaint.restore(fast)
    assert [type(m).__mro__[1:] for m in fast.modules()] == [type(m).__mro__[1:] for m in net.modules()]
    assert_same_step(fast.train(), net.train(), small())


@pytest.mark.parametrize("way", WAYS)
def test_their_results_stay_deferred(way: str) -> None:
    fast = fastinpaint.accelerate(net_with(way), objective="fuse")
    seen = []
    fast[1].forward = lambda x: seen.append(type(x)) or layers._Layer.forward(fast[1], x)  # type: ignore[func-returns-value]
    fast(small())
    assert issubclass(seen[0], Deferred)


def test_a_copy_and_a_cache_of_parametrizations() -> None:
    net, fast = net_with("spectral_norm"), fastinpaint.accelerate(net_with("spectral_norm"), objective="fuse")
    twin = copy.deepcopy(fast)
    with parametrize.cached():
        assert_same_step(twin, copy.deepcopy(net), small())
    assert_same_step(fast, net, small())


def test_a_parametrization_that_is_removed() -> None:
    net, fast = net_with("weight_norm"), fastinpaint.accelerate(net_with("weight_norm"), objective="fuse")
    for each in (net, fast):
        parametrize.remove_parametrizations(each[0], "weight")
        parametrize.register_parametrization(each[2], "bias", nn.Softplus())
    assert_same_step(fast, net, small())
    assert type(fastinpaint.restore(fast)[0]) is nn.Conv2d


@pytest.mark.parametrize("parameter", ["weight", "bias"])
@pytest.mark.parametrize("row", [True, False])
def test_a_norm_that_computes_one_parameter(row: bool, parameter: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    if not row:
        net.insert(1, nn.Identity())
    parametrize.register_parametrization(net[1 + (not row)], parameter, Doubled())
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    assert_same_step(fast, net, small())
    assert_same_step(fast.eval(), net.eval(), small())


def test_a_bias_that_another_layer_computes() -> None:
    class Hyper(nn.Module):
        """A bias that depends on the input, as an attribute of the layer, and a norm's, which is deferred too."""

        def __init__(self) -> None:
            super().__init__()
            self.code, self.row = nn.Linear(3, 8), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.last = nn.Conv2d(8, 8, 3)
            for layer in (self.row[1], self.last):
                del layer.bias

        def forward(self, x: Tensor) -> Tensor:
            self.row[1].bias = self.last.bias = self.code(x.mean((0, 2, 3)))
            return self.last(self.row(x))

    torch.manual_seed(0)
    net = Hyper().double()
    fast = fastinpaint.accelerate(Hyper().double(), objective="fuse")
    fast.load_state_dict(net.state_dict())
    assert_same_step(fast, net, small())


def test_they_are_watched_when_a_model_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTINPAINT_TUNE", "")
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    net, x = net_with("spectral_norm"), small()
    links = record(net, lambda: net(x))
    assert links.order == ["0", "2", "5", "8"]
    assert links.follows == {"3": "2", "6": "5"}
    state = copy.deepcopy(net.state_dict())
    report = fastinpaint.accelerate(net, example=x, objective="speed").fastinpaint_report
    assert report.how == "measured"
    assert [layer.kind for layer in report.layers] == ["Conv2d", "Conv2d", "ConvTranspose2d", "Conv2d"]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
