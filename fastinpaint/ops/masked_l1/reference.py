"""`masked_l1` in plain torch: the hole's mean absolute error of Wang et al. 2019, Eqs. 1 and 2.

    loss = 1/G * sum_g  sum_{i in g} mask_i * |output_i - target_i|  /  (C * sum_{i in g} mask_i)

A group g is one sample (Eq. 1, ``per_frame=False``: the sums run over T, H, W) or one frame (Eq. 2,
``per_frame=True``), G the number of groups. The mask has one channel and counts once for each of the C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.ops.activation.reference import wide


def why_not(output: Tensor, target: Tensor, mask: Tensor) -> str | None:
    """The reference takes everything."""
    return None


def _group_weights(output: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """mask / (C * sum of the group's mask * G), broadcastable over output ``[N, C, T, H, W]``."""
    dims = (-2, -1) if per_frame else (-3, -2, -1)
    holes = wide(mask).sum(dims, keepdim=True)
    return wide(mask) / (holes * (output.shape[1] * holes.numel()))


def fwd(output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """The loss, a scalar in the wide dtype; output and target ``[N, C, T, H, W]``, mask ``[N, 1, T, H, W]``."""
    return ((wide(output) - wide(target)).abs() * _group_weights(output, mask, per_frame)).sum()


def bwd(dloss: Tensor, output: Tensor, target: Tensor, mask: Tensor, per_frame: bool) -> Tensor:
    """doutput, in output's dtype."""
    sign = torch.sign(wide(output) - wide(target))
    return (dloss * sign * _group_weights(output, mask, per_frame)).to(output.dtype)
