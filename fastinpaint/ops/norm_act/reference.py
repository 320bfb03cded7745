"""`norm_act` in plain torch: any device, any dtype, float64 too. The oracle of every other backend.

    z = (x - mean) / sqrt(var + eps) * weight + bias + addend,   a = act(z)

and, given da, with rstd = 1 / sqrt(var + eps), sums over what a statistic was taken of (M values a group of channels):

    dz = da * act'(z)     daddend = dz     dbias = sum dz     dweight = sum dz * (x - mean) * rstd
    dslope = sum da * min(z, 0), of prelu's slopes
    dx = rstd * (weight * dz - sum(weight * dz) / M - (x - mean) * rstd^2 * sum(weight * dz * (x - mean)) / M)

where mean and var are x's own statistics, else dx = rstd * weight * dz. mean and var are ``[C]`` for statistics of the
batch, ``[N, C]`` for those of each sample. Without var, rstd is 1: weight and bias are then the scale and shift of a
`fastinpaint.ops.types.Source`. The slope of prelu is ``[C]`` or ``[1]``. Maps narrower than float32 are computed in
float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.ops.activation.reference import wide
from fastinpaint.ops.norm_act.types import Act, Form

CHANNELS_LAST = False
_aten = torch.ops.aten
_ACTS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "none": (lambda z, p: z, lambda da, z, p: da),
    "relu": (lambda z, p: z.relu(), lambda da, z, p: _aten.threshold_backward(da, z, 0)),
    "relu6": (lambda z, p: F.hardtanh(z, 0.0, 6.0), lambda da, z, p: _aten.hardtanh_backward(da, z, 0, 6)),
    "leaky_relu": (F.leaky_relu, lambda da, z, p: _aten.leaky_relu_backward(da, z, p, False)),
    "elu": (F.elu, lambda da, z, p: _aten.elu_backward(da, p, 1, 1, False, z)),
    "silu": (lambda z, p: F.silu(z), lambda da, z, p: _aten.silu_backward(da, z)),
    "hardswish": (lambda z, p: F.hardswish(z), lambda da, z, p: _aten.hardswish_backward(da, z)),
    "hardsigmoid": (
        lambda z, p: F.hardtanh(z + 3, 0.0, 6.0) / 6,
        lambda da, z, p: _aten.hardtanh_backward(da, z + 3, 0, 6) / 6,
    ),
    "sigmoid": (lambda z, p: z.sigmoid(), lambda da, z, p: _aten.sigmoid_backward(da, z.sigmoid())),
    "tanh": (lambda z, p: z.tanh(), lambda da, z, p: _aten.tanh_backward(da, z.tanh())),
    "gelu": (lambda z, p: F.gelu(z), lambda da, z, p: _aten.gelu_backward(da, z)),
    "gelu_tanh": (
        lambda z, p: F.gelu(z, approximate="tanh"),
        lambda da, z, p: _aten.gelu_backward(da, z, approximate="tanh"),
    ),
    "softplus": (F.softplus, lambda da, z, p: _aten.softplus_backward(da, z, p, 20)),
    "mish": (lambda z, p: F.mish(z), lambda da, z, p: _aten.mish_backward(da, z)),
    "prelu": (lambda z, p: torch.where(z > 0, z, z * p), lambda da, z, p: torch.where(z > 0, da, da * p)),
}


def why_not(x: Tensor, form: Form) -> str | None:
    """The reference takes everything."""
    return None


def act_fwd(act: Act, z: Tensor, slope: Tensor | None = None) -> Tensor:
    """act(z); slope: ``[C]`` or ``[1]``, of prelu."""
    return _ACTS[act.kind][0](z, act.parameter if slope is None else per_channel(slope.to(z.dtype), z))


def act_bwd(act: Act, da: Tensor, z: Tensor, slope: Tensor | None = None) -> Tensor:
    """da * act'(z)."""
    return _ACTS[act.kind][1](da, z, act.parameter if slope is None else per_channel(slope.to(z.dtype), z))


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """``[C]`` or ``[N, C]`` as a view that broadcasts over ``[N, C, *space]``."""
    return vector.view(-1, vector.shape[-1], *[1] * (like.dim() - 2))


def stats(x: Tensor, per_sample: bool, groups: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, wide, ``[C]`` or ``[N, C]``; a group's are those of each of its channels."""
    grouped = wide(x).unflatten(1, (groups or x.shape[1], -1))  # [N, G, C / G, *space]
    dims = [*([] if per_sample else [0]), *range(2, grouped.dim())]
    var, mean = torch.var_mean(grouped, dims, correction=0)
    each = grouped.shape[2]
    return mean.repeat_interleave(each, -1), var.repeat_interleave(each, -1)


def affine(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """z without the addend, in the wide dtype."""
    z = wide(x)
    if mean is None:
        return z
    scale = torch.ones_like(mean) if var is None else torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    z = (z - per_channel(mean, z)) * per_channel(scale, z)
    return z if bias is None else z + per_channel(bias.to(z.dtype), z)


def fwd(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
    slope: Tensor | None,
    form: Form,
) -> Tensor:
    """a, in the dtype of x."""
    z = affine(x, mean, var, weight, bias, form.eps)
    return act_fwd(form.act, z if addend is None else z + wide(addend), slope).to(x.dtype)


def bwd(
    da: Tensor,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor | None,
    slope: Tensor | None,
    form: Form,
    needs: tuple[bool, bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """dx, dweight, dbias, daddend and dslope, those that `needs` names; out: a, from which act' is taken, or None."""
    if out is not None:
        z = wide(out)
    else:
        z = affine(x, mean, var, weight, bias, form.eps)
        z = z if addend is None else z + wide(addend)
    dz = act_bwd(form.act, wide(da), z, slope)
    dx, dweight, dbias, dslope = dz, None, None, None
    if slope is not None and needs[4]:
        dslope = torch.where(z > 0, 0.0, wide(da) * z).sum([0, *range(2, x.dim())]).sum_to_size(slope.shape)
    if mean is not None:
        dims = [0, *range(2, x.dim())] if mean.dim() == 1 else list(range(2, x.dim()))
        rstd = torch.ones_like(mean) if var is None else torch.rsqrt(var + form.eps)
        centred = wide(x) - per_channel(mean, x)
        scale = rstd if weight is None else rstd * weight.to(rstd.dtype)
        of_dz, of_dz_x = dz.sum(dims), (dz * centred).sum(dims)  # [C] or [N, C]
        dbias, dweight = (v.view(-1, v.shape[-1]).sum(0) for v in (of_dz, of_dz_x * rstd))
        dx = dz * per_channel(scale, dz)
        if form.of_batch:
            groups, count = form.groups or x.shape[1], x.numel() // of_dz.numel()

            def group_mean(sums: Tensor) -> Tensor:
                grouped = (sums * scale).unflatten(-1, (groups, -1))
                return (grouped.mean(-1, keepdim=True) / count).expand_as(grouped).flatten(-2)

            dx = dx - per_channel(group_mean(of_dz), dx)
            dx = dx - centred * per_channel(rstd.square() * group_mean(of_dz_x), dx)
    found: tuple[Any, ...] = (dx, dweight, dbias, dz, dslope)
    like = (x, weight, bias, x, slope)
    return tuple(
        None if t is None or not needed or of is None else t.to(of.dtype)
        for t, needed, of in zip(found, needs, like, strict=True)
    )
