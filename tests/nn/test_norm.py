"""Every option of torch's batch norm and convolutions, against torch's own, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.testing.compare import assert_close

NORMS = {
    "default": {},
    "momentum": {"momentum": 0.3},
    "cumulative": {"momentum": None},
    "no affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
    "eps": {"eps": 0.5},
}
CONVS = {
    "strided": {"stride": 2, "padding": 1},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "grouped": {"groups": 2},
    "no bias": {"bias": False, "padding": (2, 1)},
}


def steps(net: nn.Module, xs: list[Tensor]) -> list[Tensor]:
    """Outputs, gradients and buffers over several steps of training, then evaluation with and without gradients."""
    found = []
    for x in xs:
        x = x.clone().requires_grad_()
        y = net(x)
        net.zero_grad()
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found += [y.detach(), x.grad, *(p.grad.clone() for p in net.parameters()), *(b.clone() for b in net.buffers())]
    net.eval()
    found.append(net(xs[0]).detach())
    net.zero_grad()
    net(xs[0]).square().sum().backward()
    found += [p.grad.clone() for p in net.parameters()]
    with torch.no_grad():
        found.append(net(xs[0]))
    return found


def assert_same(net: nn.Module, *shape: int) -> None:
    torch.manual_seed(1)
    xs = [torch.randn(*shape, dtype=torch.float64) for _ in range(3)]
    net = net.double()
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    for ours, expected in zip(steps(fast, xs), steps(net, xs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm(name: str) -> None:
    assert_same(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **NORMS[name]), nn.ReLU(), nn.Conv2d(4, 2, 1)), 2, 2, 6, 7
    )


def test_batch_norm_3d() -> None:
    assert_same(nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(True), nn.Conv3d(4, 2, 1)), 2, 2, 4, 5, 6)


def test_frozen_batch_norm() -> None:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.train = lambda mode=True: norm  # the usual trick: it never leaves eval mode
    norm.training = False
    assert_same(nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU()), 2, 2, 6, 7)


def test_batch_norm_of_anything_else() -> None:
    """First in a net, after ReLU, and after a foreign layer."""
    assert_same(
        nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 2, 2, 6, 7
    )
    assert_same(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)), 2, 2, 6, 7)


@pytest.mark.parametrize("name", CONVS)
def test_convolution(name: str) -> None:
    assert_same(
        nn.Sequential(nn.Conv2d(2, 4, 3, **CONVS[name]), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), 2, 2, 9, 8
    )


def test_transposed_convolutions() -> None:
    up = nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2, bias=False)
    assert_same(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), up, nn.BatchNorm2d(6), nn.ReLU()), 2, 2, 5, 6)
    up3 = nn.ConvTranspose3d(4, 3, (3, 4, 4), (1, 2, 2), 1, output_padding=(0, 1, 0))
    assert_same(nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), up3, nn.BatchNorm3d(3), nn.ReLU()), 1, 2, 4, 5, 6)


def test_output_size_of_a_transposed_convolution() -> None:
    up = nn.ConvTranspose2d(2, 3, 3, 2)
    x = torch.randn(1, 2, 4, 4)
    expected = up(x, output_size=[10, 9])
    ours = fastinpaint.accelerate(up)(x, output_size=[10, 9])
    assert isinstance(ours, Tensor)
    torch.testing.assert_close(ours, expected)


def test_one_value_a_channel_raises_as_torch() -> None:
    net = fastinpaint.accelerate(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        net(torch.randn(1, 2, 3, 3))


@pytest.mark.parametrize("shape", [(2, 5, 5), (0, 2, 5, 5)], ids=["unbatched", "empty batch"])
def test_unbatched_and_empty_inputs(shape: tuple[int, ...]) -> None:
    conv = nn.Conv2d(2, 4, 3)
    x = torch.randn(*shape)
    expected = conv(x)
    torch.testing.assert_close(fastinpaint.accelerate(conv)(x), expected)


def test_wrong_inputs_raise_where_they_are_given() -> None:
    net = fastinpaint.accelerate(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(5)))
    with pytest.raises(ValueError, match=r"weight\.shape\[1\] must equal the sources' 3 channels"):
        net(torch.randn(1, 3, 5, 5))
    with pytest.raises(ValueError, match="input must have 5 channels, got"):
        net(torch.randn(2, 2, 5, 5))
    with pytest.raises(RuntimeError):
        net[0](torch.randn(1, 2, 5, 5).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_large_mean_within_twice_torchs_error(dtype: torch.dtype) -> None:
    """mean/std = 1e3 (30 in bfloat16, which has three digits) at the input of batch norm."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(dtype)
    with torch.no_grad():
        net[0].bias.fill_(1e3 if dtype == torch.float32 else 30.0)
    x, dy = torch.randn(4, 4, 24, 24).to(dtype), torch.randn(4, 4, 20, 20).to(dtype)

    def run(net: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        y = net(x)
        y.backward(dy)
        # the first bias has a gradient of zero: batch norm takes any constant away
        return {"y": y, **{n: p.grad for n, p in net.named_parameters() if n != "0.bias"}}

    exact = run(copy.deepcopy(net).double(), x.double(), dy.double())
    stock = run(copy.deepcopy(net), x, dy)
    ours = run(fastinpaint.accelerate(net), x, dy)
    for name, value in ours.items():
        assert_close(name, value, stock[name], exact[name], dtype)


def test_autocast_trains_as_torchs_does() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    fast, x = fastinpaint.accelerate(copy.deepcopy(net)), torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        expected, ours = net(x), fast(x)
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=0.05, atol=0.02)
    ours.float().sum().backward()
    assert {p.grad.dtype for p in fast.parameters()} == {torch.float32}
    torch.testing.assert_close(fast[1].running_var, net[1].running_var, rtol=1e-2, atol=1e-3)
