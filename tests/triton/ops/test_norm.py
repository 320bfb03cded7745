"""A convolution and the batch norm that follows it as one node: the same bits as apart, and torch's own results."""

from __future__ import annotations

import copy
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.ops import triton_support
from fastinpaint.ops.batch_norm import reference as reference_norm
from fastinpaint.ops.batch_norm import triton as triton_norm
from fastinpaint.ops.batch_norm.reference import Norm, Running
from fastinpaint.ops.conv_block import norm as conv_norm
from fastinpaint.ops.conv_block import operators, reference
from fastinpaint.ops.conv_block import triton as ours
from fastinpaint.ops.types import flatten
from fastinpaint.testing import interpreter
from fastinpaint.testing.rule import check_all, check_grads, double
from tests.triton.ops.cases import CASES, DEVICE, inputs

NAMES = ("2d", "2d-concat", "2d-transposed", "2d-thin-first-layer", "3d-strided", "three-sources")
EPS = 1e-3


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def norm_of(channels: int, dtype: torch.dtype = torch.float32, momentum: float | None = 0.3) -> Norm:
    generator = torch.Generator().manual_seed(3)
    weight, bias, mean, var = (torch.rand(channels, generator=generator).to(DEVICE, dtype) + 0.5 for _ in range(4))
    return Norm(weight, bias, Running(mean, var, torch.tensor(4, device=DEVICE), momentum), EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_forward_has_the_bits_of_two_launches(name: str, dtype: torch.dtype) -> None:
    """dtype: of the parameters and of the running statistics."""
    given, norm = inputs(CASES[name], torch.float32), norm_of(CASES[name].out_channels, dtype)
    apart = copy.deepcopy(norm)
    y, normed = ours.fwd_norm(*given[:4], norm)
    other, mean, var = ours.fwd(*given)
    assert mean is not None
    assert var is not None
    scale, shift = triton_norm.fwd(mean, var, *apart[:3], y.numel() // y.shape[1], EPS)
    assert all(map(torch.equal, (y, *normed[:3]), (other, mean, scale, shift)))
    for one, two in zip(norm.running or (), apart.running or (), strict=True):
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    torch.testing.assert_close(normed.rstd, (var + EPS).rsqrt())
    torch.testing.assert_close(normed.curve, reference_norm.bwd(torch.ones_like(var), var, norm.weight, EPS, False)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_backward(name: str, dtype: torch.dtype) -> None:
    given, norm = inputs(CASES[name], dtype), norm_of(CASES[name].out_channels)
    y, normed = ours.fwd_norm(*given[:4], norm)
    generator = torch.Generator().manual_seed(9)
    dy = torch.randn(y.shape, generator=generator).to(DEVICE, dtype)
    dmean, dscale = (3 * torch.randn(y.shape[1], generator=generator).to(DEVICE) for _ in range(2))
    rest = (given.sources, given.weight, given.geometry, [True] * len(given.sources), True, given.bias is not None)
    grads, *got = ours.bwd_norm(dy, dmean, dscale, y, normed, norm.weight, *rest)

    def composed(wide: bool) -> tuple:
        make = double if wide else lambda value: value
        d, scale, weight, mean = map(make, (dscale, normed.rstd, norm.weight, normed.mean))
        var = scale.reciprocal().square() - EPS
        dvar, dweight = reference_norm.bwd(d, var, weight, EPS, True)
        return *reference.bwd(make(dy), make(dmean), dvar, make(y), mean, *map(make, rest[:2]), *rest[2:]), dweight

    plain, exact = composed(wide=False), composed(wide=True)
    check_grads(grads, plain[0], exact[0])
    check_all(("dweight", "dbias", "dnorm_weight"), got, plain[1:], exact[1:])


def test_the_weight_of_a_norm_alone() -> None:
    """Nothing else is asked for: no dgrad, no wgrad, one launch."""
    given, norm = inputs(CASES["2d"], torch.float32), norm_of(18)
    y, normed = ours.fwd_norm(*given[:4], norm)
    dscale = torch.rand(18).to(DEVICE)
    with interpreter.launches() as names:
        grads, dweight, dbias, dnorm = ours.bwd_norm(
            y,
            dscale,
            dscale,
            y,
            normed,
            norm.weight,
            given.sources,
            given.weight,
            given.geometry,
            [False],
            False,
            False,
        )
    assert names == ["conv_finish_kernel"] or not triton_support.INTERPRETING
    assert [*grads[0], dweight, dbias] == [None] * 7
    torch.testing.assert_close(dnorm, dscale * normed.rstd)


class Net(nn.Module):
    """Two convolutions with a batch norm between, and what a step of it must leave alike."""

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
    """How a `Net` is used; how many batch norms a step takes with their convolution, and how many apart from it."""

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


def nets(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Plain, ours, and an input."""
    torch.manual_seed(0)
    net = Net(**dict(KINDS[name].options)).to(DEVICE)
    net.kind = name
    for parameter in KINDS[name].frozen:
        net.get_parameter(parameter).requires_grad_(False)
    if name == "frozen statistics":
        net.norm.eval()
    wrapped = Checkpointed(net) if name == "checkpoint" else net
    fast = fastinpaint.accelerate(copy.deepcopy(wrapped), backend="triton", memory=KINDS[name].memory)
    return wrapped, fast, torch.randn(2, 8, 5, 4).to(DEVICE)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_torchs(name: str) -> None:
    net, fast, x = nets(name)
    with interpreter.launches() as names:
        got = step(fast, x)
    expected = step(net, x)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    if triton_support.INTERPRETING:
        counts = Counter(names)
        assert counts["finish_norm_kernel"] == KINDS[name].joined
        assert counts["batch_norm_bwd_kernel"] == KINDS[name].apart


def test_in_training_without_gradients() -> None:
    net, fast, x = nets("default")
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(fast.named_buffers()), dict(net.named_buffers()))
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


def test_twice_differentiable() -> None:
    net, fast, x = nets("default")
    found = []
    for model in (fast, net):
        y = model(x.requires_grad_())
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        dx.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_low_memory_says_why_it_is_not() -> None:
    _, fast, x = nets("low")
    y = fast(x.requires_grad_())
    with pytest.raises(NotImplementedError, match="double backward needs every map kept"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_the_changed_statistics_are_seen_by_autograd() -> None:
    _, fast, x = nets("default")
    before = fast.norm.running_mean._version
    fast(x)
    assert fast.norm.running_mean._version > before


@pytest.mark.skipif(not triton_support.INTERPRETING, reason="opcheck copies tensors to where interpreted kernels run")
def test_registered_as_torch_wants_it() -> None:
    given, norm = inputs(CASES["2d-concat"], torch.float32), norm_of(16)
    assert norm.running is not None
    relus, axes = [s.relu for s in given.sources], ("triton", *given.geometry)
    forward = (
        flatten(given.sources), relus, given.weight, None, norm.weight, norm.bias, *norm.running, EPS, *axes
    )  # fmt: skip
    y, *normed = torch.ops.fastinpaint.conv_norm_fwd(*forward)
    backward = (
        torch.randn_like(y), normed[0], normed[1], y, normed, norm.weight, flatten(given.sources), relus, given.weight,
        [True, False], True, False, *axes,
    )  # fmt: skip
    call = operators.call_of(given.sources, given.weight, given.geometry, True, "triton")
    assert conv_norm.can(call, given.sources, norm)
    for operator, arguments in (("conv_norm_fwd", forward), ("conv_norm_bwd", backward)):
        checked = getattr(torch.ops.fastinpaint, operator).default
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        assert set(torch.library.opcheck(checked, arguments, test_utils=tests).values()) == {"SUCCESS"}
