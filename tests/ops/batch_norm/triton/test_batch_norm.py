"""`batch_norm` in Triton against the reference, interpreted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.ops.batch_norm import reference
from fastinpaint.ops.batch_norm import triton as ours
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.testing import interpreter
from fastinpaint.testing.rule import check, check_all, double
from tests.ops.triton.cases import DEVICE

CHANNELS = (1, 33, 300)  # 300: more than a block


def vectors(channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand(channels, generator=generator) + 0.1 for _ in range(6)]
    return [t.to(DEVICE, torch.float32 if i < 2 else dtype) for i, t in enumerate(made)]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("momentum", [0.2, None], ids=["moving", "cumulative"])
def test_forward(channels: int, dtype: torch.dtype, momentum: float | None) -> None:
    tensors = vectors(channels, dtype)
    count = torch.tensor(7.0, device=DEVICE) if momentum is None else 7

    def run(module, tensors: list[Tensor]) -> list[Tensor]:
        mean, var, weight, bias, *old = (t.clone() for t in tensors)
        running = Running(*old, torch.tensor(4, device=DEVICE), momentum)
        scale, shift = module.fwd(mean, var, weight, bias, running, count, 1e-3)
        assert running.mean.dtype == tensors[4].dtype
        assert running.tracked == 5
        return [scale, shift, running.mean, running.var]

    names = ("scale", "shift", "running_mean", "running_var")
    check_all(names, run(ours, tensors), run(reference, tensors), run(reference, double(tensors)))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(channels: int, dtype: torch.dtype) -> None:
    dscale, var, weight = vectors(channels, dtype)[:3]
    exact = reference.bwd(dscale.double(), var.double(), weight.double(), 1e-3, True)
    stock, found = (module.bwd(dscale, var, weight, 1e-3, True) for module in (reference, ours))
    for name, got, plain, right in zip(("dvar", "dweight"), found, stock, exact, strict=True):
        assert got.dtype == plain.dtype
        check(name, got, plain, right)


def test_without_parameters_and_running_statistics() -> None:
    dscale, var, *_ = vectors(5, torch.float32)
    scale, shift = ours.fwd(var, var, None, None, None, 0, 1e-3)
    torch.testing.assert_close(scale, (var + 1e-3).rsqrt())
    assert not shift.any()
    dvar, dweight = ours.bwd(dscale, var, None, 1e-3, False)
    assert dweight is None
    torch.testing.assert_close(dvar, reference.bwd(dscale, var, None, 1e-3, False)[0])


def test_running_statistics_with_gaps_are_updated_in_place() -> None:
    wide = torch.ones(6, 2, device=DEVICE)
    running = Running(wide[:, 0], wide[:, 1], None, 1.0)
    mean, var = torch.full((6,), 3.0, device=DEVICE), torch.full((6,), 5.0, device=DEVICE)
    ours.fwd(mean, var, None, None, running, 6, 1e-3)
    assert torch.equal(wide.cpu(), torch.tensor([3.0, 6.0]).expand(6, 2))


@pytest.mark.skipif(not triton_support.INTERPRETING, reason="launches are counted where they are interpreted")
def test_one_launch_a_layer_each_way() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 4, 1))
    fastinpaint.accelerate(net, backend="triton")
    with interpreter.launches() as names:
        net(torch.randn(2, 8, 4, 4)).sum().backward()
    assert [name for name in names if name.startswith("batch_norm")] == [
        "batch_norm_fwd_kernel",
        "batch_norm_bwd_kernel",
    ]
