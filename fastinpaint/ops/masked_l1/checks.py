"""The contract of `masked_l1`, checked once for every backend."""

from __future__ import annotations

from torch import Tensor

from fastinpaint.ops.activation.checks import DTYPES


def check(output: Tensor, target: Tensor, mask: Tensor) -> None:
    """Raises ValueError or TypeError with one sentence unless the three fit together."""
    if output.dim() != 5:
        raise ValueError(f"masked_l1: output must be [N, C, T, H, W], got {tuple(output.shape)}.")
    if output.dtype not in DTYPES:
        raise TypeError(f"masked_l1: output must be float64, float32, bfloat16 or float16, got {output.dtype}.")
    one_channel = (output.shape[0], 1, *output.shape[2:])
    for name, tensor, shape in (("target", target, tuple(output.shape)), ("mask", mask, one_channel)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"masked_l1: {name} must be {shape} for this output, got {tuple(tensor.shape)}.")
        if tensor.device != output.device:
            raise ValueError(f"masked_l1: {name} must be on {output.device} as the output, got {tensor.device}.")
        if tensor.dtype.is_complex:
            raise TypeError(f"masked_l1: {name} must be real, got {tensor.dtype}.")
    if mask.requires_grad:
        raise ValueError("masked_l1: mask must not require a gradient; the loss has none for it.")
