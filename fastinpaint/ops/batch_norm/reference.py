"""`batch_norm` in plain torch: what batch norm computes for each channel, between two convolutions.

    rstd = 1 / sqrt(var + eps)     scale = weight * rstd     shift = bias
    running_mean += momentum * (mean - running_mean)
    running_var  += momentum * (var * count / (count - 1) - running_var)

and, given dscale (dbias is dshift as it stands):

    dvar = -1/2 * dscale * weight * rstd^3     dweight = dscale * rstd

All vectors are ``[C]``. Statistics, scale, shift and the gradients but dweight are in the wide dtype, float32 or
float64; weight, bias and the running statistics in dtypes of their own.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.types import maker

IN_TORCH = True  # autograd differentiates `affine` by itself; False: a node of the graph calls fwd and bwd


class Running(NamedTuple):
    """Running statistics, updated in place.

    Attributes:
        mean, var: ``[C]``, any real floating dtype.
        tracked: the number of batches, int64 and a scalar, to be counted up; or None.
        momentum: the batch's share; None for 1 / tracked, the mean of all batches.
    """

    mean: Tensor
    var: Tensor
    tracked: Tensor | None
    momentum: float | None


class Norm(NamedTuple):
    """A batch norm by the statistics of the batch, as what follows a convolution.

    Attributes:
        weight, bias: ``[C]``, any real floating dtype, or None.
        running: the running statistics, or None.
    """

    weight: Tensor | None
    bias: Tensor | None
    running: Running | None
    eps: float


class Normed(NamedTuple):
    """The result of such a batch norm from a map's statistics, ``[C]`` in the wide dtype.

    Attributes:
        mean, scale, shift: what applies it, see `fastinpaint.ops.types.Source`.
        rstd, dvar_per_dscale: what its backward needs: dweight = dscale * rstd, dvar = dscale * dvar_per_dscale.
        var, eps: from backends whose backward takes them in place of those two; the biased variance has no gradient.
        weight: the batch norm's, for such a backward.
    """

    mean: Tensor
    scale: Tensor
    shift: Tensor
    rstd: Tensor | None = None
    dvar_per_dscale: Tensor | None = None
    var: Tensor | None = None
    eps: float = 0.0
    weight: Tensor | None = None


running_of, norm_of, normed_of = maker(Running), maker(Norm), maker(Normed)
VECTORS = 5  # of `Normed`, which every backend gives


def why_not(var: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None) -> str | None:
    """The reference takes everything."""
    return None


def fwd(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    count: int | Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """scale and shift; the running statistics follow. count: of how many values, a number or a float scalar."""
    if running is not None:
        update(mean, var, running, count)
    scale, shift = affine(var, weight, bias, eps)
    return scale, shift.clone() if shift is bias else shift


def affine(var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """scale and shift, differentiable; shift may be bias itself."""
    rstd = torch.rsqrt(var + eps)
    scale = rstd if weight is None else weight.to(var.dtype) * rstd
    return scale, torch.zeros_like(rstd) if bias is None else bias.to(var.dtype)


def update(mean: Tensor, var: Tensor, running: Running, count: int | Tensor) -> None:
    """The running statistics after this batch. Nothing here waits for a GPU.

    As in torch's batch norm, autograd does not count these changes: torch's own node keeps the statistics, and a batch
    norm that runs twice in a step, once in each way, would find them changed.
    """
    if running.tracked is not None:
        running.tracked.add_(1)
    momentum: float | Tensor | None = running.momentum
    if momentum is None:
        assert running.tracked is not None
        momentum = running.tracked.to(torch.float64).reciprocal()
    with nullcontext() if torch.compiler.is_compiling() else torch._C._AutoDispatchBelowADInplaceOrView():
        for old, new in ((running.mean, mean), (running.var, var * (count / (count - 1)))):
            dtype = torch.promote_types(old.dtype, new.dtype)
            share = momentum.to(dtype) if isinstance(momentum, Tensor) else momentum
            if old.dtype == new.dtype:
                old.lerp_(new, share)
            else:  # in the wider dtype, rounded once
                old.copy_(torch.lerp(old.to(dtype), new.to(dtype), share))


def bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """dvar and dweight."""
    rstd = torch.rsqrt(var + eps)
    scale = rstd if weight is None else weight.to(var.dtype) * rstd
    dweight = (dscale * rstd).to(weight.dtype) if needs_weight and weight is not None else None
    return -0.5 * dscale * scale * rstd.square(), dweight
