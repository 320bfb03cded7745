"""A convolution with its batch norm as one node: equal bits to separate nodes, and torch's results."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.batch_norm import reference as reference_norm
from fastinpaint.ops.batch_norm import triton as triton_norm
from fastinpaint.ops.batch_norm.reference import Norm, Running
from fastinpaint.ops.conv_block import fused_bn, reference, torch_library
from fastinpaint.ops.conv_block import triton as ours
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.ops.types import flatten
from fastinpaint.testing import interpreter
from fastinpaint.testing.rule import check_all, check_grads, double
from tests.ops.conv_block.norm_nets import KINDS, check_step, check_twice_differentiable, nets
from tests.ops.triton.cases import CASES, DEVICE, inputs

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
    torch.testing.assert_close(
        normed.dvar_per_dscale, reference_norm.bwd(torch.ones_like(var), var, norm.weight, EPS, False)[0]
    )


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
    """Nothing else is needed: no dgrad, no wgrad, one launch."""
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


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_torchs(name: str) -> None:
    with interpreter.launches() as names:
        check_step(*nets(name, "triton", DEVICE))
    if triton_support.INTERPRETING:
        counts = Counter(names)
        assert counts["finish_norm_kernel"] == KINDS[name].joined
        assert counts["batch_norm_bwd_kernel"] == KINDS[name].apart


def test_in_training_without_gradients() -> None:
    net, fast, x = nets("default", "triton", DEVICE)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(fast.named_buffers()), dict(net.named_buffers()))
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


def test_twice_differentiable() -> None:
    check_twice_differentiable(*nets("default", "triton", DEVICE), 1e-3)


def test_low_memory_is_twice_differentiable() -> None:
    check_twice_differentiable(*nets("low", "triton", DEVICE), 1e-3)


def test_autograd_counts_no_change_of_the_statistics_as_in_torch() -> None:
    net, fast, x = nets("default", "triton", DEVICE)
    for one in (net, fast):
        before = one.norm.running_mean._version
        one(x)
        assert one.norm.running_mean._version == before


@pytest.mark.skipif(not triton_support.INTERPRETING, reason="opcheck copies tensors to where interpreted kernels run")
def test_registered_operators() -> None:
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
    call = torch_library.call_of(given.sources, given.weight, given.geometry, True, "triton")
    assert fused_bn.node(call, given.sources, given.weight, None, norm) is not None
    for operator, arguments in (("conv_norm_fwd", forward), ("conv_norm_bwd", backward)):
        checked = getattr(torch.ops.fastinpaint, operator).default
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        assert set(torch.library.opcheck(checked, arguments, test_utils=tests).values()) == {"SUCCESS"}
