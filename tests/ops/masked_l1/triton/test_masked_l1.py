"""`masked_l1` in Triton against the reference, interpreted."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.masked_l1 import reference
from fastinpaint.ops.masked_l1 import triton as ours
from fastinpaint.testing.rule import check, double
from tests.ops.triton.cases import DEVICE


def case(dtype: torch.dtype, mask_dtype: torch.dtype = torch.float32, shape=(2, 3, 3, 5, 4)):
    generator = torch.Generator().manual_seed(3)
    output = torch.randn(shape, generator=generator).to(dtype)
    output = output.contiguous(memory_format=torch.channels_last_3d)
    target = torch.randn(shape, generator=generator).to(dtype)
    mask = (torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.5).to(mask_dtype)
    mask[..., 0, 0] = 1
    return output.to(DEVICE), target.to(DEVICE), mask.to(DEVICE)


@pytest.mark.parametrize("per_frame", [False, True], ids=["eq1", "eq2"])
@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_forward_and_backward(dtype, mask_dtype, per_frame):
    tensors = case(dtype, mask_dtype)
    exact = double(tensors)
    check("loss", ours.fwd(*tensors, per_frame), reference.fwd(*tensors, per_frame), reference.fwd(*exact, per_frame))
    dloss = torch.tensor(0.7, device=DEVICE)
    got, plain = (module.bwd(dloss, *tensors, per_frame) for module in (ours, reference))
    check("doutput", got, plain, reference.bwd(dloss.double(), *exact, per_frame))
    assert got.is_contiguous(memory_format=torch.channels_last_3d)


def test_several_blocks_a_group(monkeypatch):
    monkeypatch.setattr(ours, "BLOCK", 16)
    tensors = case(torch.float32)
    exact = double(tensors)
    check("loss", ours.fwd(*tensors, False), reference.fwd(*tensors, False), reference.fwd(*exact, False))
    dloss = torch.tensor(1.0, device=DEVICE)
    plain, wide = reference.bwd(dloss, *tensors, False), reference.bwd(dloss.double(), *exact, False)
    check("doutput", ours.bwd(dloss, *tensors, False), plain, wide)


def test_strided_target_and_expanded_mask():
    output, target, mask = case(torch.float32)
    mask = mask[:1, :, :1].expand(2, 1, 3, 5, 4)
    target = target.transpose(3, 4).contiguous().transpose(3, 4)
    exact = double((output, target, mask))
    plain = reference.fwd(output, target, mask, True)
    check("loss", ours.fwd(output, target, mask, True), plain, reference.fwd(*exact, True))


def test_nothing_and_no_hole():
    assert ours.fwd(*case(torch.float32, shape=(0, 3, 1, 2, 2)), False) == 0
    output, target, mask = case(torch.float32)
    assert ours.fwd(output, target, mask * 0, False).isnan()
