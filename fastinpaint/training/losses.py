"""The losses of Wang et al. 2019, Eqs. 1 to 3, for pixels in [0, 1]. The paper's figures are 255 times larger."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.models.preprocess import check_mask, downsample_mask, downsample_video


class Losses(NamedTuple):
    """Eq. 3 and its two parts, as scalars."""

    total: Tensor
    threedcn: Tensor
    combcn: Tensor


def masked_l1(
    output: Tensor, target: Tensor, mask: Tensor, per_frame: bool = False, *, checked: bool = False
) -> Tensor:
    """The mean absolute error inside the holes.

        mean over groups of  || mask * (output - target) || / || mask ||

    A group is one sample (Eq. 1) or, with `per_frame`, one frame (Eq. 2). The mask's norm counts each pixel once per
    colour channel, so the loss is a mean error.

    Args:
        output: ``[N, 3, T, H, W]``, any float dtype; sums are float32 (float64 for float64).
        target: same shape as output.
        mask: ``[N, 1, T, H, W]``, 1 = hole.
        checked: every group is known to have a hole, so the check, which waits for the device, is skipped. The loss of
            a group without a hole is NaN.

    Raises:
        ValueError: the shapes do not fit, or a group has no hole. Inside a compiled function or a CUDA graph's capture
            holes are not checked.
    """
    check_mask("masked_l1", output, mask)
    if output.dim() != 5 or target.shape != output.shape:
        raise ValueError(
            "masked_l1: output and target must both be [N, 3, T, H, W], "
            f"got {tuple(output.shape)} and {tuple(target.shape)}."
        )
    dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
    output, target, mask = output.to(dtype), target.to(dtype), mask.to(dtype)
    dims = (-2, -1) if per_frame else (-3, -2, -1)
    holes = mask.sum(dims)
    if not checked and can_read_values(mask) and not bool(holes.all()):
        group = "frame" if per_frame else "sample"
        index = tuple(torch.nonzero(holes[:, 0] == 0)[0].tolist())
        raise ValueError(f"masked_l1: every {group} needs a hole, but the mask of {group} {index} is empty.")
    error = (mask * (output - target).abs()).sum((1, *dims))
    return (error / (output.shape[1] * holes[:, 0])).mean()


def threedcn_loss(coarse: Tensor, target: Tensor, mask: Tensor, r: int, *, checked: bool = False) -> Tensor:
    """Eq. 1: coarse ``[N, 3, T, ceil(H/r), ceil(W/r)]`` against the down-sampled target ``[N, 3, T, H, W]``."""
    return masked_l1(coarse, downsample_video(target, r), downsample_mask(mask.to(target.dtype), r), checked=checked)


def combcn_loss(completed: Tensor, target: Tensor, mask: Tensor, *, checked: bool = False) -> Tensor:
    """Eq. 2: the mean over frames, completed and target ``[N, 3, T, H, W]``."""
    return masked_l1(completed, target, mask, per_frame=True, checked=checked)


def total_loss(
    completed: Tensor,
    coarse: Tensor,
    target: Tensor,
    mask: Tensor,
    r: int,
    alpha: float = 1.0,
    *,
    checked: bool = False,
) -> Losses:
    """Eq. 3: ``threedcn + alpha * combcn``, of the results of `VideoCompletionNet`."""
    threedcn = threedcn_loss(coarse, target, mask, r, checked=checked)
    combcn = combcn_loss(completed, target, mask, checked=checked)
    return Losses(threedcn + alpha * combcn, threedcn, combcn)


def gradient_loss(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean absolute error of differences between neighbouring pixels, of which one is in the holes.

        mean over horizontal and vertical neighbours p, q of |(output_q - output_p) - (target_q - target_p)|

    Args:
        output, target: ``[N, 3, T, H, W]``.
        mask: ``[N, 1, T, H, W]``, above 0 = hole. Pairs without a hole count as no error and are left out of the mean.
    """
    error, holes = output.float() - target.float(), (mask > 0).float()
    total, count = error.new_zeros(()), error.new_zeros(())
    for axis in (-2, -1):
        size = error.shape[axis] - 1
        pair = torch.maximum(holes.narrow(axis, 1, size), holes.narrow(axis, 0, size))
        total = total + (pair * error.diff(dim=axis).abs()).sum()
        count = count + 3 * pair.sum()
    return total / count.clamp(min=1)


def can_read_values(x: Tensor) -> bool:
    """Whether Python may read the values of x here: not under a compiler or a CUDA graph's capture."""
    return not torch.compiler.is_compiling() and not (x.is_cuda and torch.cuda.is_current_stream_capturing())
