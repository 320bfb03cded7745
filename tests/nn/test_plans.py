"""What a layer remembers of its calls follows what they depend on."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block.cpu import winograd
from fastinpaint.ops.dispatch import native


def network() -> nn.Sequential:
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
    return fastinpaint.accelerate(nn.Sequential(*layers), objective="fuse")


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")
def test_a_warm_layer_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    calls, right = [], reference.fwd
    monkeypatch.setattr(reference, "fwd", lambda *arguments: calls.append(arguments) or right(*arguments))
    net, x = network(), torch.randn(2, 3, 16, 16)
    net(x)
    assert not calls
    monkeypatch.setenv("FASTINPAINT_BACKEND", "reference")
    net(x)
    assert len(calls) == 2


def test_a_warm_layer_follows_its_settings_and_the_dtype() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    assert net(x).shape == (2, 16, 16, 16)
    net[3].stride, net[3].padding = (2, 2), (0, 0)
    assert net(x).shape == (2, 16, 7, 7)
    assert net.double()(x.double()).dtype == torch.float64
    half = net.half()(x.half())  # which the CPU's kernels do not take
    torch.testing.assert_close(half, fastinpaint.restore(network_like(net))(x.half()), rtol=1e-2, atol=1e-2)


def result_and_gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """y of an input, and the gradients of the input and the parameters."""
    given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = net(given)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [given, *net.parameters()])]


@pytest.mark.parametrize("kernels", ["onednn", "own"])
def test_a_warm_layer_follows_strides(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", kernels)
    net, x = network(), torch.randn(2, 3, 16, 16)
    expected = result_and_gradients(net, x)
    wide = torch.randn(2, 6, 16, 32)
    wide[:, ::2, :, ::2] = x
    layouts = (x, x.contiguous(memory_format=torch.channels_last), wide[:, ::2, :, ::2], x.transpose(2, 3))
    for given, wanted in zip(layouts, (x, x, x, x.transpose(2, 3).contiguous()), strict=True):
        torch.testing.assert_close(result_and_gradients(net, given), result_and_gradients(network_like(net), wanted))
    torch.testing.assert_close(result_and_gradients(net, x), expected)


def network_like(net: nn.Module) -> nn.Module:
    """A net of the same parameters that has no plans."""
    return copy.deepcopy(net)


def test_a_warm_layer_follows_the_layout_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", "onednn")
    net, x = network(), torch.randn(2, 3, 16, 16)
    expected = result_and_gradients(net, x)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous()
    _, _, *gradients = found = result_and_gradients(net, x)
    torch.testing.assert_close(found, expected)
    assert [gradient.stride() for gradient in gradients] == [parameter.stride() for parameter in net.parameters()]


def test_a_warm_layer_follows_gradients_and_modes() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    fresh = network_like(net)
    expected = result_and_gradients(fresh, x)
    with torch.no_grad():
        assert not net(x).requires_grad
    with torch.inference_mode():
        assert net(x).is_inference()
    net.load_state_dict(fresh.state_dict())
    assert net(x).requires_grad
    torch.testing.assert_close(result_and_gradients(net, x), expected)
    net.eval()
    stock = fastinpaint.restore(copy.deepcopy(net))
    for _ in range(2):
        torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")
def test_a_warm_layer_follows_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], winograd.fwd
    monkeypatch.setattr(winograd, "fwd", lambda *arguments: calls.append(arguments) or right(*arguments))
    net, x = network(), torch.randn(2, 3, 16, 16)
    for kernels, most in (("own", 1), ("onednn", 0), ("own", 1)):
        monkeypatch.setenv("FASTINPAINT_CPU_CONV", kernels)
        calls.clear()
        net(x)
        assert len(calls) == most, kernels


def test_a_warm_layer_follows_autocast() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    assert net(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
    assert net(x).dtype == torch.float32


def test_a_warm_batch_norm_follows_its_settings() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    net(x)
    net[1].momentum, net[1].eps = 0.5, 0.25
    stock = fastinpaint.restore(network_like(net))
    torch.testing.assert_close(result_and_gradients(net, x), result_and_gradients(stock, x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net[1].running_mean, stock[1].running_mean)
    net[1].track_running_stats = False
    before = net[1].running_mean.clone()
    net(x)
    assert torch.equal(net[1].running_mean, before)


def test_plans_are_not_copied() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    net(x)
    assert net[0]._fastinpaint_plans
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not vars(other[0]).get("_fastinpaint_plans")
        torch.testing.assert_close(other(x), net(x))


def squeezing(size: int, bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    squeeze = nn.Conv2d(8, 2, 1, bias=bias), nn.SiLU(), nn.Conv2d(2, 8, 1, bias=bias), nn.Sigmoid()
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(size), *squeeze)


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize(
    ("size", "bias", "expected"), [(1, True, [(8, 2), (2, 8)]), (2, True, []), (1, False, [])], ids=str
)
def test_torch_computes_convolutions_of_vectors(
    size: int, bias: bool, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of squeeze-and-excitation, with gradients too: a fused layer's calls take longer than its arithmetic."""
    stock, x = squeezing(size, bias), torch.randn(4, 3, 10, 10)
    net = fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse")
    called, right = list[tuple[int, int]](), fastinpaint.nn.Conv2d._by_torch

    def noted(layer: nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
        called.append((layer.in_channels, layer.out_channels))
        return right(layer, input)

    monkeypatch.setattr(fastinpaint.nn.Conv2d, "_by_torch", noted)
    for _ in range(2):
        called.clear()
        found, plain = (torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (net, stock))
        assert called == expected
        for ours, theirs in zip(found, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
