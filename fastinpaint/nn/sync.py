"""Batch statistics over several processes, exact and differentiable, in one collective each way.

    N = sum n_i      mean = sum n_i mean_i / N      var = (sum n_i var_i + n_i (mean_i - mean)^2) / N

(Chan's formula: no raw sum of squares.) With dmean and dvar summed over the processes:

    dmean_i = n_i / N (dmean + 2 (mean_i - mean) dvar)      dvar_i = n_i / N dvar
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        mine = torch.cat([mean, var, mean.new_full((1,), count)])
        rows = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(rows, mine, group=group)
        every = torch.stack(rows)
        channels = mean.shape[0]
        means, variances, counts = every[:, :channels], every[:, channels:-1], every[:, -1:]
        total = counts.sum()
        mean_all = (counts * means).sum(0) / total
        var_all = (counts * (variances + (means - mean_all).square())).sum(0) / total
        ctx.group = group
        ctx.save_for_backward(mean - mean_all, count / total)
        ctx.mark_non_differentiable(total)
        return mean_all, var_all, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        offset, share = ctx.saved_tensors
        both = torch.stack([dmean, dvar])
        dist.all_reduce(both, group=ctx.group)
        return share * (both[0] + 2 * offset * both[1]), share * both[1], None, None


def all_reduce_statistics(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values of all processes, from this one's ``[C]``, ``[C]`` and number."""
    return _AllReduce.apply(mean, var, count, group)
