"""`batch_norm` in Triton: one small launch forward and one backward. `reference` holds the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.ops.activation.triton_launch import FINISH_BLOCK
from fastinpaint.ops.batch_norm.reference import Norm, Normed, Running, normed_of
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.triton_launch import Launches

if support.INSTALLED:
    from fastinpaint.ops.batch_norm import triton_kernels as kernels

IN_TORCH = False
_finishes = Launches()
BLOCK = 256  # channels at once: eight per thread of one warp; most layers have fewer


def why_not(var: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None) -> str | None:
    """Why this cannot run here, in one sentence, or None."""
    if var.dtype != torch.float32:
        return f"batch_norm: the Triton kernels take float32 statistics, got {var.dtype}."
    return support.why_not_on("batch_norm", var)


def fwd(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    count: int | Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """scale and shift. Updates the running statistics in place, with any strides."""
    scale, shift = (support.float_empty(var, len(var)) for _ in range(2))
    running_mean = running_var = tracked = None
    momentum: float | None = 0.0
    if running is not None:
        running_mean, running_var, tracked, momentum = running
        running_mean, running_var = running_mean.contiguous(), running_var.contiguous()
    total = count.float() if isinstance(count, Tensor) else None
    with support.on_device_of(var):
        kernels.batch_norm_fwd_kernel[(1,)](
            *(None if t is None else t.contiguous() for t in (mean, var, weight, bias)),
            running_mean, running_var, tracked, total, scale, shift, len(var),
            2.0 if isinstance(count, Tensor) else float(count), 0.0 if momentum is None else float(momentum), eps,
            HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None, HAS_RUNNING=running is not None,
            HAS_TRACKED=tracked is not None, HAS_TOTAL=total is not None, CUMULATIVE=momentum is None, BLOCK=BLOCK,
            num_warps=1, **support.OPTIONS,
        )  # fmt: skip
    _put_back(running, running_mean, running_var)
    return scale, shift


def finish(stats: Tensor, channels: int, parts: int, norm: Norm, values: int) -> Normed:
    """`Normed` from the statistics of a map's parts, in one launch. Updates the running statistics in place.

    Args:
        stats: of at least one channel and one part, as a kernel stored them by `store_part`.
        norm: its momentum must be a number, because one program updates the batch count and the others cannot read it.
        values: number of values per channel.
    """
    weight, bias, running, eps = norm
    mean = stats.new_empty(channels)
    vectors = (mean, torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean))
    running_mean = running_var = tracked = None
    momentum: float | None = 0.0
    if running is not None:
        running_mean, running_var, tracked, momentum = running
        running_mean, running_var = running_mean.contiguous(), running_var.contiguous()
    kernel = kernels.finish_norm_kernel
    key = (channels, parts, values, momentum, eps, weight is None, bias is None, running is None, tracked is None)
    launch = _finishes.get(kernel, key)
    if launch is None:
        numbers = {
            "parts": parts, "values": float(values), "momentum": momentum, "eps": eps, "HAS_WEIGHT": weight is not None,
            "HAS_BIAS": bias is not None, "HAS_RUNNING": running is not None, "HAS_TRACKED": tracked is not None,
            "BLOCK": FINISH_BLOCK, **support.OPTIONS,
        }  # fmt: skip
        launch = _finishes.keep(kernel, key, (channels,), numbers)
    launch(
        stats, None if weight is None else weight.contiguous(), None if bias is None else bias.contiguous(),
        running_mean, running_var, tracked, *vectors,
    )  # fmt: skip
    if running is not None and (running_mean is not running[0] or running_var is not running[1]):
        _put_back(running, running_mean, running_var)
    return normed_of((*vectors, None, 0.0, None))


def _put_back(running: Running | None, mean: Tensor | None, var: Tensor | None) -> None:
    """Copy updated running statistics back if a dense copy was used."""
    if running is not None:
        for given, changed in ((running.mean, mean), (running.var, var)):
            if changed is not None and given is not changed:
                given.copy_(changed)


def bwd(
    dscale: Tensor, var: Tensor, weight: Tensor | None, eps: float, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients dvar and dweight."""
    dvar = support.float_empty(var, len(var))
    weight = None if weight is None else weight.contiguous()
    dweight = torch.empty_like(weight) if needs_weight and weight is not None else None
    if len(var):
        with support.on_device_of(var):
            kernels.batch_norm_bwd_kernel[(-(-len(var) // BLOCK),)](
                dscale.contiguous(), var.contiguous(), weight, dvar, dweight, len(var), eps,
                HAS_WEIGHT=weight is not None, HAS_DWEIGHT=dweight is not None, BLOCK=BLOCK, num_warps=1,
                **support.OPTIONS,
            )  # fmt: skip
    return dvar, dweight
