"""The checks on every backend of `batch_norm` against the reference in float64."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.batch_norm import reference
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.testing.rule import check, check_all, double

each_channels = pytest.mark.parametrize("channels", [1, 33, 300])  # 300: more than a block
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
each_momentum = pytest.mark.parametrize("momentum", [0.2, None], ids=["moving", "cumulative"])


def vectors(channels: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Statistics in float32 and parameters in ``dtype``, all positive."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand(channels, generator=generator) + 0.1 for _ in range(6)]
    return [t.to(device, torch.float32 if i < 2 else dtype) for i, t in enumerate(made)]


def check_forward(backend: ModuleType, channels: int, dtype: torch.dtype, momentum: float | None, device: str) -> None:
    tensors = vectors(channels, dtype, device)
    count = torch.tensor(7.0, device=device) if momentum is None else 7

    def run(module: ModuleType, tensors: list[Tensor]) -> list[Tensor]:
        mean, var, weight, bias, *old = (t.clone() for t in tensors)
        running = Running(*old, torch.tensor(4, device=device), momentum)
        scale, shift = module.fwd(mean, var, weight, bias, running, count, 1e-3)
        assert running.mean.dtype == tensors[4].dtype
        assert running.tracked == 5
        return [t.cpu() for t in (scale, shift, running.mean, running.var)]

    names = ("scale", "shift", "running_mean", "running_var")
    check_all(names, run(backend, tensors), run(reference, tensors), run(reference, double(tensors)))


def check_backward(backend: ModuleType, channels: int, dtype: torch.dtype, device: str) -> None:
    dscale, var, weight = vectors(channels, dtype, device)[:3]
    exact = reference.bwd(dscale.double(), var.double(), weight.double(), 1e-3, True)
    stock, found = (module.bwd(dscale, var, weight, 1e-3, True) for module in (reference, backend))
    for name, ours, plain, right in zip(("dvar", "dweight"), found, stock, exact, strict=True):
        assert ours.dtype == plain.dtype
        check(name, ours.cpu(), plain.cpu(), right.cpu())


def check_without_parameters(backend: ModuleType, device: str) -> None:
    """Neither parameters nor running statistics."""
    dscale, var, *_ = vectors(5, torch.float32, device)
    scale, shift = backend.fwd(var, var, None, None, None, 0, 1e-3)
    torch.testing.assert_close(scale, (var + 1e-3).rsqrt())
    assert not shift.any()
    dvar, dweight = backend.bwd(dscale, var, None, 1e-3, False)
    assert dweight is None
    torch.testing.assert_close(dvar, reference.bwd(dscale, var, None, 1e-3, False)[0])


def check_strided_running_statistics(backend: ModuleType, device: str) -> None:
    """Running statistics with gaps are updated in place."""
    wide = torch.ones(6, 2, device=device)
    running = Running(wide[:, 0], wide[:, 1], None, 1.0)
    mean, var = torch.full((6,), 3.0, device=device), torch.full((6,), 5.0, device=device)
    backend.fwd(mean, var, None, None, running, 6, 1e-3)
    assert torch.equal(wide.cpu(), torch.tensor([3.0, 6.0]).expand(6, 2))
