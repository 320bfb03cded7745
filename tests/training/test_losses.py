"""Eqs. 1 to 3 agree with loops over the equations' sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastinpaint.models.preprocess import downsample_mask, downsample_video
from fastinpaint.training.losses import combcn_loss, masked_l1, threedcn_loss, total_loss


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    output, target = torch.rand(2, 2, 3, 3, 4, 6, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 1, 3, 4, 6, generator=generator) > 0.6).double()
    mask[0, :, 1] = 0  # frames whose holes differ much in size tell Eq. 1 from Eq. 2
    mask[0, :, 1, 2, 3] = 1
    return output.to(dtype), target.to(dtype), mask.to(dtype)


def equation(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> float:
    """The mean over samples of Eq. 1, or of Eq. 2's mean over frames; the mask's norm counts three channels."""
    total = 0.0
    samples, _, frames, height, width = output.shape
    for n in range(samples):
        errors, norms = np.zeros(frames), np.zeros(frames)
        for c, t, y, x in np.ndindex(3, frames, height, width):
            errors[t] += float(mask[n, 0, t, y, x] * (output[n, c, t, y, x] - target[n, c, t, y, x]).abs())
            norms[t] += float(mask[n, 0, t, y, x])
        total += (errors / norms).mean() if per_frame else errors.sum() / norms.sum()
    return total / samples


@pytest.mark.parametrize("per_frame", [False, True], ids=["eq1", "eq2"])
def test_masked_l1_is_the_equation(per_frame: bool) -> None:
    output, target, mask = case()
    expected = equation(output, target, mask, per_frame)
    assert masked_l1(output, target, mask, per_frame).item() == pytest.approx(expected, rel=1e-12)
    assert equation(output, target, mask, True) != pytest.approx(equation(output, target, mask, False), rel=1e-3)


@pytest.mark.parametrize("per_frame", [False, True], ids=["eq1", "eq2"])
def test_a_constant_error_is_that_error(per_frame: bool) -> None:
    _, target, mask = case()
    outside = torch.full_like(target, 100.0)
    output = torch.where(mask > 0, target - 0.25, outside)
    assert masked_l1(output, target, mask, per_frame).item() == pytest.approx(0.25)


def test_gradients() -> None:
    output, target, mask = case()
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda o: masked_l1(o, target, mask, True), output)
    masked_l1(output, target, mask).backward()
    assert output.grad is not None
    assert (output.grad[mask.expand_as(output) == 0] == 0).all()


def test_narrow_dtypes_are_summed_in_float32() -> None:
    output, target, mask = case(torch.bfloat16)
    loss = masked_l1(output, target, mask)
    assert loss.dtype == torch.float32
    expected = equation(output.double(), target.double(), mask.double(), False)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_three_losses() -> None:
    completed, target, mask = case()
    coarse = torch.rand(2, 3, 3, 2, 3, dtype=torch.float64)
    first = equation(coarse, downsample_video(target, 2), downsample_mask(mask, 2), False)
    second = equation(completed, target, mask, True)
    assert threedcn_loss(coarse, target, mask.bool(), 2).item() == pytest.approx(first)
    assert combcn_loss(completed, target, mask).item() == pytest.approx(second)
    losses = total_loss(completed, coarse, target, mask, r=2, alpha=0.5)
    assert [loss.item() for loss in losses] == pytest.approx([first + 0.5 * second, first, second])
    assert total_loss(completed, coarse, target, mask, r=2).total.item() == pytest.approx(first + second)


def test_empty_masks_are_named() -> None:
    output, target, mask = case()
    mask[1, :, 2] = 0
    masked_l1(output, target, mask)
    with pytest.raises(ValueError, match=r"frame \(1, 2\) is empty"):
        masked_l1(output, target, mask, per_frame=True)
    mask[1] = 0
    with pytest.raises(ValueError, match=r"sample \(1,\) is empty"):
        masked_l1(output, target, mask)


def test_wrong_shapes_are_named() -> None:
    output, target, mask = case()
    with pytest.raises(ValueError, match=r"masked_l1.*\(2, 3, 3, 4, 6\) and \(1, 3, 3, 4, 6\)"):
        masked_l1(output, target[:1], mask)
    with pytest.raises(ValueError, match=r"masked_l1: mask must be \(2, 1, 3, 4, 6\)"):
        masked_l1(output, target, mask.expand(-1, 3, -1, -1, -1))
