"""`batch_norm` on the CUDA kernels: against float64, for parameters of any dtype, and the operators a layer calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinpaint
from fastinpaint.ops.batch_norm import cuda, reference
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.testing.rule import check, check_all, double

CHANNELS = (1, 33, 300)  # of a block of 128 threads: one, some, and more than there are


def vectors(channels: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand(channels, generator=generator) + 0.1 for _ in range(6)]
    return [t.to(device, torch.float32 if i < 2 else dtype) for i, t in enumerate(made)]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("momentum", [0.2, None], ids=["moving", "cumulative"])
def test_forward(channels: int, dtype: torch.dtype, momentum: float | None, device: str) -> None:
    tensors = vectors(channels, dtype, device)
    count = torch.tensor(7.0, device=device) if momentum is None else 7

    def run(module, tensors: list[Tensor]) -> list[Tensor]:
        mean, var, weight, bias, *old = (t.clone() for t in tensors)
        running = Running(*old, torch.tensor(4, device=device), momentum)
        scale, shift = module.fwd(mean, var, weight, bias, running, count, 1e-3)
        assert running.mean.dtype == tensors[4].dtype
        assert running.tracked == 5
        return [t.cpu() for t in (scale, shift, running.mean, running.var)]

    names = ("scale", "shift", "running_mean", "running_var")
    exact = run(reference, double(tensors))
    check_all(names, run(cuda, tensors), run(reference, tensors), exact)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(channels: int, dtype: torch.dtype, device: str) -> None:
    dscale, var, weight = vectors(channels, dtype, device)[:3]
    exact = reference.bwd(dscale.double(), var.double(), weight.double(), 1e-3, True)
    stock, found = (module.bwd(dscale, var, weight, 1e-3, True) for module in (reference, cuda))
    for name, ours, plain, right in zip(("dvar", "dweight"), found, stock, exact, strict=True):
        assert ours.dtype == plain.dtype
        check(name, ours.cpu(), plain.cpu(), right.cpu())


def test_without_parameters_and_running_statistics(device: str) -> None:
    dscale, var, *_ = vectors(5, torch.float32, device)
    scale, shift = cuda.fwd(var, var, None, None, None, 0, 1e-3)
    torch.testing.assert_close(scale, (var + 1e-3).rsqrt())
    assert not shift.any()
    dvar, dweight = cuda.bwd(dscale, var, None, 1e-3, False)
    assert dweight is None
    torch.testing.assert_close(dvar, reference.bwd(dscale, var, None, 1e-3, False)[0])


def test_running_statistics_with_gaps_are_updated_in_place(device: str) -> None:
    wide = torch.ones(6, 2, device=device)
    running = Running(wide[:, 0], wide[:, 1], None, 1.0)
    mean, var = torch.full((6,), 3.0, device=device), torch.full((6,), 5.0, device=device)
    cuda.fwd(mean, var, None, None, running, 6, 1e-3)
    assert torch.equal(wide.cpu(), torch.tensor([3.0, 6.0]).expand(6, 2))


class Calls(TorchDispatchMode):
    """The names of torch's operators in order of their calls, without views, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1]
        if name not in ("detach", "split_with_sizes", "_to_copy"):  # the last of a weight, for a GPU
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_layer_calls_no_small_operators_of_torch(device: str) -> None:
    """Torch's operators for batch norm's vectors, forward and backward, would be thirteen launches per layer."""
    net = nn.Sequential(*(m for _ in range(3) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())))
    fastinpaint.accelerate(net, backend="cuda").to(device)
    x, dy = torch.randn(2, 8, 6, 6, device=device), torch.ones(2, 8, 6, 6, device=device)
    with Calls() as forward:
        y = net(x)
    with Calls() as backward:
        y.backward(dy)
    leaving = ["activation_fwd", "clone"]  # what leaves the fused layers is contiguous where the weights are
    assert forward.names == [*["conv_block_fwd", "batch_norm_fwd"] * 3, *leaving]
    assert backward.names == ["activation_bwd", *["batch_norm_bwd", "conv_block_bwd"] * 3]
