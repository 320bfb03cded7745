"""A map times one factor per sample and channel, as squeeze-and-excitation and layer scale compute it.

    p[n, c, i] = a[n, c, i] * s[n, c]
    da = dp * s,   ds[n, c] = sum over i of dp[n, c, i] * a[n, c, i]

torch's backward makes ``dp * a`` as a map and reads it once more. The CPU's kernel takes both gradients in one pass.
Forward is torch's: it reads a and writes p in one pass already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.ops.channel_scale import cpu
from fastinpaint.ops.dispatch.fast_path import can_bypass_dispatcher


def bwd(dp: Tensor, a: Tensor | None, s: Tensor, needs_map: bool, needs_factor: bool) -> tuple[Tensor | None, ...]:
    """da and ds, those that are needed; a may be None where ds is not.

    Args:
        dp, a: ``[N, C, *space]``.
        s: ``[N or 1, C or 1, 1, ...]`` in the dtype of a.
    """
    if not needs_factor or a is None:
        return dp * s if needs_map else None, None
    if _own(dp, a, s):
        return cpu.bwd(dp, a, s, needs_map)
    return dp * s if needs_map else None, (dp * a).sum_to_size(s.shape)


def _own(dp: Tensor, a: Tensor, s: Tensor) -> bool:
    """Whether the own kernel computes this; torch does elsewhere, and where something observes operators."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return dp.dtype == a.dtype and cpu.fits(a, s) and can_bypass_dispatcher(dp, a, s)
