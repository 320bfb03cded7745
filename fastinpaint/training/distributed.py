"""Distributed training: the process group, differentiable sums over ranks, and batch norm over the whole batch.

``torch.nn.SyncBatchNorm`` does not support CPU tensors. The one here is plain torch and runs on any backend of
``torch.distributed`` (gloo on CPUs, nccl on GPUs).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastinpaint.environment import whole_number
from fastinpaint.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class World:
    """This process's rank among the ``size`` processes that train together, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Only rank 0 writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over the ranks, without gradient."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join torchrun's process group, if there is one, and leave it at the end."""
    if device != "cpu" and not torch.cuda.is_available():
        if device == "cuda":
            raise UserError("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto.")
        device = "cpu"
    kind = "cpu" if device == "cpu" else "cuda"
    index, _ = whole_number("LOCAL_RANK", 0), whole_number("RANK", 0)
    place = torch.device("cpu") if kind == "cpu" else torch.device("cuda", index)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), place)
    elif whole_number("WORLD_SIZE", 1) > 1:
        dist.init_process_group("gloo" if kind == "cpu" else "nccl")
        try:
            yield World(dist.get_rank(), dist.get_world_size(), place)
        finally:
            gc.collect()  # a reducer in a reference cycle would outlive its group
            dist.destroy_process_group()
    else:
        yield World(0, 1, place)


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x. Each rank's x affects every rank's y, so dx = sum over ranks of dy."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> Tensor:
        total = dy.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of ``x`` over the ranks; differentiable."""
    return _SumOverRanks.apply(x)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of the batch over all ranks.

    Each rank sends (count, mean, M2) of its part, where M2 is the sum of squares about its own mean. They are merged by
    Chan, Golub and LeVeque's formula, which has no cancellation for large means:

        count = sum_r count_r,  mean = sum_r count_r mean_r / count,
        M2 = sum_r M2_r + count_r (mean_r - mean)^2,  var = M2 / count

    In eval mode it is torch's own layer. Parameters and buffers have the names of ``torch.nn.BatchNorm*d``.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: input must be [N, C, ...], got shape {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        dims = [0, *range(2, x.dim())]
        channels = (1, -1, *[1] * (x.dim() - 2))
        count, mean, m2 = _merge(*_own_statistics(x, dims))
        var = m2 / count
        self._track(mean, m2 / (count - 1).clamp(min=1))
        y = (x - mean.view(channels)) * torch.rsqrt(var + self.eps).view(channels)
        if self.affine:
            y = y * self.weight.view(channels) + self.bias.view(channels)
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def _own_statistics(x: Tensor, dims: list[int]) -> tuple[int, Tensor, Tensor]:
    """(count, mean, M2) of this rank's part; mean and M2 ``[C]``."""
    mean = x.mean(dims, keepdim=True)
    return x.numel() // x.shape[1], mean.flatten(), (x - mean).square().sum(dims)


def _merge(count: int, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(count, mean, M2) over all ranks by one all-reduce: rank r fills row r of a matrix of zeros."""
    own = torch.cat([mean.new_tensor([count]), mean, m2])
    row = torch.arange(dist.get_world_size(), device=own.device) == dist.get_rank()
    counts, means, m2s = sum_over_ranks(row[:, None] * own).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    merged = (counts * means).sum(0) / total
    return total, merged, (m2s + counts * (means - merged).square()).sum(0)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Replace every ``BatchNorm1d/2d/3d`` inside ``module`` by a `SyncBatchNorm` with the same weights, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
            setattr(module, name, _synchronised(child))
        else:
            synchronise_batch_norm(child)


def _synchronised(layer: _BatchNorm) -> SyncBatchNorm:
    sync = SyncBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    sync.train(layer.training)
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        setattr(sync, name, value)  # the same tensors, so that optimisers that hold them stay valid
    return sync
