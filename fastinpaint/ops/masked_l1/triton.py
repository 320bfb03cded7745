"""`masked_l1` in Triton: two launches forward, two backward, no full-size temporary."""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import triton_support as support

if support.INSTALLED:
    from fastinpaint.ops.masked_l1 import triton_kernels as kernels

# Positions a program takes: enough to fill its loads, few enough that 32 frames of 128 x 128 make 512 programs.
BLOCK = 1024
FINISH_BLOCK = 1024


def why_not(output: Tensor, target: Tensor, mask: Tensor) -> str | None:
    """Why these tensors cannot be taken, or None."""
    return support.why_not("masked_l1", [output, target])


def fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """The loss, a float32 scalar; output and target ``[N, C, T, H, W]``, mask ``[N, 1, T, H, W]``, any strides."""
    loss = support.float_empty(output)
    if not output.numel():
        return loss.zero_()
    with support.on_device_of(output):
        partial = _partial(output, target, mask, per_frame, errors=True)
        _, groups, parts = partial.shape
        kernels.masked_l1_finish_kernel[(1,)](partial, loss, groups, parts, output.shape[1], BLOCK=FINISH_BLOCK)
    return loss


def bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """doutput, in output's dtype, dense channels-last."""
    doutput = support.empty_channels_last(output.shape, output)
    if not output.numel():
        return doutput
    with support.on_device_of(output):
        partial = _partial(output, target, mask, per_frame, errors=False)
        _, groups, parts = partial.shape
        kernels.masked_l1_bwd_kernel[(parts, groups)](
            dloss.float(), output, target, _countable(mask), partial, doutput, *_sizes(output, per_frame), parts,
            *output.stride(), *target.stride(), *_mask_strides(mask), *doutput.stride(),
            BLOCK=BLOCK, BLOCK_P=FINISH_BLOCK,
        )  # fmt: skip
    return doutput


def _partial(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool, errors: bool) -> Tensor:
    """``[2, G, P]``: each block's sums of masked errors (left empty without ``errors``) and of the mask."""
    frames, per_sample, channels, height, width = _sizes(output, per_frame)
    groups, parts = len(output) * per_sample, -(-frames * height * width // BLOCK)
    partial = support.float_empty(output, 2, groups, parts)
    kernels.masked_l1_partial_kernel[(parts, groups)](
        output, target, _countable(mask), partial, frames, per_sample, channels, height, width,
        *output.stride(), *target.stride(), *_mask_strides(mask), ERRORS=errors, BLOCK=BLOCK,
    )  # fmt: skip
    return partial


def _sizes(output: Tensor, per_frame: bool) -> tuple[int, int, int, int, int]:
    """Frames a group, groups a sample, channels, height, width."""
    _, channels, frames, height, width = output.shape
    return (1, frames, channels, height, width) if per_frame else (frames, 1, channels, height, width)


def _mask_strides(mask: Tensor) -> tuple[int, ...]:
    n, _, *rest = mask.stride()
    return (n, *rest)


def _countable(mask: Tensor) -> Tensor:
    """Booleans as bytes, which they are in memory."""
    return mask.view(dtype=torch.uint8) if mask.dtype == torch.bool else mask
