"""Each of the 29 layers and the two guidance convolutions: conv + BN + ReLU, forward and both passes of backward.

A layer alone must hand on a plain tensor, so ours also writes the activation, which in a network the next layer loads
unwritten.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastinpaint import accelerate
from fastinpaint.bench.contenders import Workload, channels_last
from fastinpaint.bench.layers import LayerCase, layer_cases
from fastinpaint.bench.measure import kept_bytes

NAMES = [case.name for case in layer_cases(Workload(frames=1, size=16))]
PASSES = ("forward", "dgrad", "wgrad")
NEAR_ZERO = 1e-4  # rounding decides on which side of a ReLU these fall: no gradient comes from there
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@functools.cache
def cases(workload: Workload) -> dict[str, LayerCase]:
    """The layers at the workload's size, by name."""
    return {case.name: case for case in layer_cases(workload)}


def work_of(module: nn.Module, x: Tensor, upstream: Tensor, which: str) -> Callable[[], Tensor]:
    """Forward, or backward alone to the input or to the weight; batch norm's own backward belongs to both."""
    weight = next(part for part in module.children() if isinstance(part, _ConvNd)).weight
    if which == "forward":
        return torch.no_grad()(lambda: module(x))
    x.requires_grad_(which == "dgrad")
    weight.requires_grad_(which == "wgrad")
    y, wanted = module(x), weight if which == "wgrad" else x
    return lambda: torch.autograd.grad(y, wanted, upstream, retain_graph=True)[0]


@functools.lru_cache(maxsize=1)
def expected(name: str, which: str, workload: Workload) -> tuple[Tensor, Tensor]:
    """The upstream gradient and what plain PyTorch gives; the contenders of a case come one after another."""
    case = cases(workload)[name]
    module, x = case.make(workload.device, workload.torch_dtype)
    upstream = torch.randn(case.out_shape, device=workload.device, dtype=workload.torch_dtype)
    with torch.no_grad():
        z = nn.Sequential(*(part for part in module.children() if not isinstance(part, nn.ReLU)))(x)
    upstream[z.abs() < NEAR_ZERO] = 0
    return upstream, work_of(module, x, upstream, which)().detach()


@pytest.mark.parametrize("contender", ["eager", "eager channels-last", "fastinpaint"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.replace(" ", "_"))
def test_layer(name, which, contender, workload, measure):
    """Checked against plain PyTorch in the same dtype, then timed."""
    case, (upstream, truth) = cases(workload)[name], expected(name, which, workload)
    module, x = case.make(workload.device, workload.torch_dtype)
    if contender != "eager":
        channels_last(module)
        x = x.detach().contiguous(memory_format=FORMATS[x.dim()]).requires_grad_()
        upstream = upstream.contiguous(memory_format=FORMATS[x.dim()])
    if contender == "fastinpaint":
        accelerate(module, backend=workload.backend)
    kept = kept_bytes(lambda: module(x), module.parameters())
    work = work_of(module, x, upstream, which)
    error = float((work().detach() - truth).norm() / truth.norm())
    assert error < (1e-3 if workload.torch_dtype == torch.float32 else 0.1), f"{contender} {which} is {error:.1e} off"
    # what any implementation must move: forward x and y, dgrad y, dy and dx, wgrad x, y and dy, and always the weights
    maps = {"forward": 0, "dgrad": 1, "wgrad": 1}[which] * math.prod(case.out_shape)
    maps += math.prod(case.shape) + math.prod(case.out_shape) + case.conv.weight.numel()
    flops, moved = 2 * case.macs(), x.element_size() * maps
    measure(work, f"{name} {which}", contender, flops, moved, kind="layer", intensity=flops / moved, kept_bytes=kept)
