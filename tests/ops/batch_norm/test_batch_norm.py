"""`batch_norm` equals torch's batch norm: results, gradients, running statistics of any kind, registration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fastinpaint.ops.batch_norm import autograd, reference
from fastinpaint.ops.batch_norm.reference import Running
from tests.ops.common import BACKENDS, leaf

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, var


def running(channels: int, dtype: torch.dtype, momentum: float | None) -> Running:
    tracked = torch.tensor(2)
    return Running(torch.rand(channels, dtype=dtype), torch.rand(channels, dtype=dtype), tracked, momentum)


@pytest.mark.parametrize("momentum", [0.3, None], ids=["moving", "cumulative"])
def test_is_torchs_batch_norm(backend: str, momentum: float | None) -> None:
    x, weight, bias = torch.randn(3, 5, 4, 2).double(), torch.randn(5).double(), torch.randn(5).double()
    ours = running(5, torch.float64, momentum)
    torchs = [t.clone() for t in ours[:2]]
    mean, var = statistics(x)
    scale, shift = autograd.apply(mean, var, weight, bias, ours, x.numel() // 5, 1e-3, backend)
    y = (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    share = 1 / 3 if momentum is None else momentum
    torch.testing.assert_close(y, F.batch_norm(x, *torchs, weight, bias, True, share, 1e-3))
    for found, expected in zip(ours, [*torchs, torch.tensor(3)], strict=False):
        torch.testing.assert_close(found, expected)


def test_gradients_once_and_twice(backend: str) -> None:
    var = (torch.rand(4, dtype=torch.float64) + 0.1).requires_grad_()
    inputs = var, leaf(4), leaf(4)

    def run(var: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        # test the autograd node itself, which some backends bypass
        call = autograd.Call(var.detach(), None, 0, 1e-2, backend)
        return autograd.BatchNorm.apply(call, var, weight, bias)

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_without_parameters(backend: str) -> None:
    var = torch.rand(4, requires_grad=True)
    call = autograd.Call(var.detach(), None, 0, 1e-2, backend)
    scale, shift = autograd.BatchNorm.apply(call, var, None, None)
    assert not shift.any()
    scale.sum().backward()
    exact = var.detach().double().requires_grad_()
    (exact + 1e-2).rsqrt().sum().backward()
    torch.testing.assert_close(var.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_running_statistics_keep_their_dtype(backend: str, dtype: torch.dtype) -> None:
    mean, var = torch.randn(6), torch.rand(6)
    ours = running(6, dtype, 0.25)
    expected = [
        t.double().lerp(new, 0.25) for t, new in zip(ours[:2], (mean.double(), var.double() * 8 / 7), strict=True)
    ]
    autograd.apply(mean, var, None, None, ours, torch.tensor(8.0), 1e-5, backend)
    for found, right in zip(ours[:2], expected, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, right.to(dtype), rtol=1e-6 if dtype == torch.float64 else 0.0, atol=1e-6)


def test_autograd_counts_no_change_of_the_running_statistics_as_in_torch(backend: str) -> None:
    """Torch's node keeps them, so a batch norm that runs in both ways in one step would fail in backward."""
    ours, torchs = running(3, torch.float32, 0.1), torch.nn.BatchNorm2d(3)
    before = ours.var._version, torchs.running_var._version  # type: ignore[union-attr]
    autograd.apply(torch.zeros(3), torch.ones(3), None, None, ours, 9, 1e-5, backend)
    torchs(torch.randn(2, 3, 4, 4))
    assert (ours.var._version, torchs.running_var._version) == before  # type: ignore[union-attr]


def test_registered_operators(backend: str) -> None:
    ours = running(4, torch.float32, None)
    var, weight = torch.rand(4), torch.rand(4)
    ops = torch.ops.fastinpaint
    forward = (var - 1, var, weight, None, *ours, 12, None, 1e-5, backend)
    for operator, arguments in (
        (ops.batch_norm_fwd.default, forward),
        (ops.batch_norm_bwd.default, (var + 1, var, weight, 1e-5, True, backend)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_equations(backend: str) -> None:
    var, weight, dscale = (torch.rand(3, dtype=torch.float64) + 0.5 for _ in range(3))
    dvar, dweight = reference.bwd(dscale, var, weight, 0.1, True)
    rstd = 1 / (var + 0.1).sqrt()
    torch.testing.assert_close(dvar, -0.5 * dscale * weight * rstd**3)
    torch.testing.assert_close(dweight, dscale * rstd)
