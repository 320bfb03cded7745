"""Each of the 29 layers and the two guidance convolutions: conv + BN + ReLU, forward alone and with backward."""

from __future__ import annotations

import math

import pytest
import torch

from fastinpaint import accelerate
from fastinpaint.bench.contenders import Workload, channels_last
from fastinpaint.bench.layers import layer_cases

NAMES = [case.name for case in layer_cases(Workload(frames=1, size=16))]
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("passes", ["forward", "training"])
@pytest.mark.parametrize("contender", ["eager", "eager channels-last", "fastinpaint"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.replace(" ", "_"))
def test_layer(name, contender, passes, workload, measure):
    """Checked against plain PyTorch in the same dtype, then timed."""
    case = next(c for c in layer_cases(workload) if c.name == name)
    module, x = case.make(workload.device, workload.torch_dtype)
    plain, plain_x = case.make(workload.device, workload.torch_dtype)
    if contender != "eager":
        channels_last(module)
        x = x.detach().contiguous(memory_format=FORMATS[x.dim()]).requires_grad_()
    if contender == "fastinpaint":
        accelerate(module, backend=workload.backend)
    upstream = torch.randn(case.out_shape, device=workload.device, dtype=workload.torch_dtype)
    if contender != "eager":
        upstream = upstream.contiguous(memory_format=FORMATS[x.dim()])

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return module(x)

    def training() -> None:
        x.grad = None
        module.zero_grad(set_to_none=True)
        module(x).backward(upstream)

    training()
    plain(plain_x).backward(upstream)
    assert x.grad is not None
    assert plain_x.grad is not None
    error = float((x.grad - plain_x.grad).norm() / plain_x.grad.norm())
    assert error < (1e-3 if workload.torch_dtype == torch.float32 else 0.1), f"{contender}: dx is {error:.1e} off"
    element = x.element_size()
    maps = math.prod(case.shape) + math.prod(case.out_shape)
    weight = case.conv.weight.numel()
    forward_only = passes == "forward"
    flops = (2 if forward_only else 6) * case.macs()
    moved = element * ((1 if forward_only else 3) * maps + (1 if forward_only else 3) * weight)
    work = forward if forward_only else training
    measure(work, f"{name} {passes}", contender, flops, moved, kind="layer", intensity=flops / moved)
