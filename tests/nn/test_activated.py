"""Activations, sums and norms of each sample that wait until they are read: torch's results, and what is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastinpaint
from fastinpaint.nn import Deferred
from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.dispatch import native

cpu_only = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))
ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": lambda: nn.ReLU6(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "elu": nn.ELU,
    "silu": lambda: nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "softplus": nn.Softplus,
    "mish": nn.Mish,
    "prelu": nn.PReLU,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "bare batch": lambda channels: nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "bare instance": nn.InstanceNorm2d,
    "group": lambda channels: nn.GroupNorm(2, channels),
}


class Chain(nn.Module):
    """conv, norm, dropout of nothing and activation, three times; 3x3, depthwise and 1x1."""

    def __init__(self, act: str, norm: str) -> None:
        super().__init__()
        convs = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)
        self.body = nn.Sequential(
            *(nn.Sequential(conv, nn.Dropout2d(0.0), NORMS[norm](conv.out_channels), ACTS[act]()) for conv in convs)
        )
        self.head = nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Residual(nn.Module):
    """A chain of two residual blocks, the first with a convolution in its shortcut."""

    def __init__(self, act: str, norm: str, before: bool = True) -> None:
        super().__init__()
        self.act, self.before = ACTS[act](), before
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), NORMS[norm](8), ACTS[act]())
        self.short = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), NORMS[norm](16))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, 16, 3, stride, 1), NORMS[norm](16), ACTS[act](),
                nn.Conv2d(16, 16, 3, 1, 1), NORMS[norm](16),
            )
            for channels, stride in ((8, 2), (16, 1), (16, 1))
        )  # fmt: skip
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, block in enumerate(self.blocks):
            short, out = self.short(x) if i == 0 else x, block(x)
            if self.before:
                out += short
                x = self.act(out)
            else:
                x = short + self.act(out)
        return self.head(x)


class Squeezed(nn.Module):
    """Squeeze-and-excitation and layer scale, as in MobileNetV3, EfficientNet and ConvNeXt."""

    def __init__(self, act: str, norm: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3), NORMS[norm](16), ACTS[act]())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid()
        )
        self.second = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), NORMS[norm](16))
        self.layer_scale = nn.Parameter(torch.randn(1, 16, 1, 1))
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(self.gate(x) * x)
        return self.head(x + y * self.layer_scale)


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The result, its gradients, and what training changed."""
    x = x.clone().requires_grad_()
    y = net(x)
    y.backward(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3)))
    return [y.detach(), x.grad, *(p.grad for p in net.parameters()), *(b.clone() for b in net.buffers())]


def same_as_torch(net: nn.Module, x: Tensor, **options: Any) -> None:
    net = net.double()
    fast = fastinpaint.accelerate(copy.deepcopy(net), **options)
    for mode in (True, True, False):
        for each in (net, fast):
            each.train(mode)
            each.zero_grad()
        for ours, theirs in zip(step(fast, x), step(net, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-8, atol=1e-8)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-8, atol=1e-8)


def kept_bytes(net: nn.Module, x: Tensor) -> int:
    """What the graph keeps but for parameters and x."""
    known = {t.untyped_storage().data_ptr() for t in (*net.parameters(), x)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    del y
    return sum(sizes.values())


@pytest.fixture(autouse=True, params=["fused", "plain"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether convolutions without own kernels read normalised maps as plain ones: of large maps they do."""
    if request.param == "plain":
        monkeypatch.setattr(cpu, "LEAST_PLAIN", 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", ACTS)
def test_a_chain_is_torchs(act: str, norm: str) -> None:
    same_as_torch(Chain(act, norm), torch.randn(2, 3, 9, 8, dtype=torch.float64))


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("before", [True, False], ids=["act of the sum", "sum of the act"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("act", ["relu", "silu", "leaky_relu", "prelu"])
def test_a_residual_chain_is_torchs(act: str, norm: str, before: bool, memory: str) -> None:
    net = Residual(act, norm, before)
    same_as_torch(net, torch.randn(2, 3, 13, 12, dtype=torch.float64), memory=memory)


class Forked(nn.Module):
    """PReLU with a slope for each channel, over a sum and over two concatenated maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.of_sum, self.of_both = nn.PReLU(8), nn.PReLU(16)
        self.head = nn.Conv2d(24, 2, 1)
        for act in (self.of_sum, self.of_both):
            nn.init.uniform_(act.weight, -0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return self.head(torch.cat([self.of_sum(right + left), self.of_both(torch.cat([left, right], 1))], 1))


@pytest.mark.parametrize("memory", ["default", "low"])
def test_slopes_of_each_channel_are_torchs(memory: str) -> None:
    same_as_torch(Forked(), torch.randn(2, 3, 9, 8, dtype=torch.float64), memory=memory)


@cpu_only
@pytest.mark.parametrize("to", ["autocast", "cast"])
def test_slopes_in_bfloat16(to: str) -> None:
    """Under autocast the slopes stay in float32, where torch rounds them."""
    torch.manual_seed(0)
    net, x = Chain("prelu", "batch"), torch.randn(2, 3, 20, 18)

    def slopes(twin: nn.Module, fused: bool, dtype: torch.dtype) -> Tensor:
        if fused:
            fastinpaint.accelerate(twin, objective="fuse")
        with torch.autocast("cpu", torch.bfloat16, enabled=to == "autocast" and dtype != torch.float64):
            y = twin(x.to(dtype))
        y.float().square().mean().backward()
        grads = [m.weight.grad for m in twin.modules() if isinstance(m, nn.PReLU)]
        assert {grad.dtype for grad in grads} == {dtype}
        return torch.cat(grads).double()

    dtype = torch.float32 if to == "autocast" else torch.bfloat16
    exact = slopes(copy.deepcopy(net).double(), False, torch.float64)
    stock, ours = (slopes(copy.deepcopy(net).to(dtype), fused, dtype) for fused in (False, True))
    assert (ours - exact).norm() <= 2 * (stock - exact).norm() + 0.01 * exact.norm()


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("act", ["relu", "silu"])
def test_factors_of_a_channel_are_torchs(act: str, norm: str, memory: str) -> None:
    same_as_torch(Squeezed(act, norm), torch.randn(2, 3, 9, 8, dtype=torch.float64), memory=memory)


@cpu_only
def test_neither_a_product_nor_what_it_scales_is_kept() -> None:
    net, x = Squeezed("silu", "batch"), torch.randn(2, 3, 66, 66)
    one = 4 * 2 * 16 * 64 * 64  # the first y, the second, and the sum that the head reads
    assert 3 * one <= kept_bytes(fastinpaint.accelerate(net), x) < 3.05 * one


@pytest.mark.parametrize("act", ["silu", "prelu"])
def test_double_backward_is_torchs(act: str) -> None:
    net = Squeezed(act, "batch").double()
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)

    def penalty(net: nn.Module) -> Tensor:
        (dx,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    expected = penalty(net)
    for memory in ("default", "low"):
        found = penalty(fastinpaint.accelerate(copy.deepcopy(net), memory=memory))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@cpu_only
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("act", ["leaky_relu", "silu", "gelu", "prelu"])
def test_of_a_chain_only_raw_maps_are_kept(act: str, norm: str) -> None:
    net, x = Chain(act, norm), torch.randn(2, 3, 66, 64)
    raw = 4 * 2 * (16 * 66 * 64 + 16 * 64 * 62 + 8 * 64 * 62)
    assert raw <= kept_bytes(fastinpaint.accelerate(net), x) < 1.01 * raw


@cpu_only
def test_of_a_residual_chain_raw_maps_and_sums_are_kept(reading: None) -> None:
    net, x = Residual("relu", "batch"), torch.randn(2, 3, 66, 64)
    small = 4 * 2 * 16 * 32 * 31
    first, shortcut, of_blocks, sums = 4 * 2 * 8 * 64 * 62, small, 6 * small, 3 * small
    default = kept_bytes(fastinpaint.accelerate(copy.deepcopy(net)), x)
    assert default < 1.01 * (first + shortcut + of_blocks + sums)
    assert kept_bytes(fastinpaint.accelerate(copy.deepcopy(net), memory="low"), x) < default / 3
    assert default < 0.85 * kept_bytes(net, x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "leaky_relu in place": lambda x: F.leaky_relu(x, inplace=True),
    "elu": lambda x: F.elu(x, alpha=0.5),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x, inplace=True),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus": lambda x: F.softplus(x, 2),
    "mish": F.mish,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1, -0.2, 1.3])),
    "prelu of one slope": lambda x: F.prelu(x, torch.tensor(0.2)),
}


@cpu_only
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_stay_deferred(name: str) -> None:
    function = FUNCTIONS[name]
    conv, bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    fast_conv, fast_bn = fastinpaint.nn.Conv2d(2, 3, 3), fastinpaint.nn.BatchNorm2d(3)
    fast_conv.load_state_dict(conv.state_dict())
    x = torch.randn(2, 2, 6, 6)
    found = function(fast_bn(fast_conv(x)))
    assert isinstance(found, Deferred)
    torch.testing.assert_close(found.tensor(), function(bn(conv(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [lambda x: F.softplus(x, 1, 5), lambda x: F.hardtanh(x), torch.sinh], ids=range(3))
def test_other_functions_get_the_plain_tensor(function: Callable[[Tensor], Tensor]) -> None:
    found = function(fastinpaint.nn.BatchNorm2d(2)(torch.randn(2, 2, 3, 3)))
    assert isinstance(found, Tensor)


def test_in_place_changes_what_others_hold() -> None:
    """As torch's: who took the plain tensor before sees the change."""
    bn = fastinpaint.nn.BatchNorm2d(2)
    deferred = bn(torch.randn(2, 2, 3, 3))
    with torch.no_grad():
        held = deferred.tensor()
        expected = F.silu(held.clone())
        F.silu(deferred, inplace=True)
    torch.testing.assert_close(held, expected)
    torch.testing.assert_close(fastinpaint.nn.plain(deferred), expected)


@cpu_only
def test_a_norm_whose_weight_changed_before_it_ran_says_so() -> None:
    deferred = fastinpaint.nn.SiLU()(fastinpaint.nn.BatchNorm2d(2)(torch.randn(2, 2, 3, 3)))
    bn = fastinpaint.nn.GroupNorm(1, 2)
    deferred = bn(deferred)
    with torch.no_grad():
        bn.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"weight or bias of a norm over 2 channels was modified in place"):
        deferred.tensor()


@cpu_only
def test_a_slope_that_changed_before_it_was_used_says_so() -> None:
    act = fastinpaint.nn.PReLU()
    deferred = act(fastinpaint.nn.GroupNorm(1, 2)(torch.randn(2, 2, 3, 3)))
    with torch.no_grad():
        act.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weight of a PReLU was modified in place before"):
        deferred.tensor()
