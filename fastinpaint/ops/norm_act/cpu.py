"""`norm_act` on the CPU: own kernels, channels-last, one pass forward and two backward. Contract: reference.py."""

from __future__ import annotations

import ctypes
import functools
from itertools import repeat

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native_cpu as native
from fastinpaint.ops.norm_act.types import ACTS, Form
from fastinpaint.ops.types import address

CHANNELS_LAST = True


class Problem(ctypes.Structure):
    """`fi::NormActProblem` of csrc/norm_act/cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "groups", "act", "dtype", "of_batch")),
        ("parameter", ctypes.c_double),
        ("eps", ctypes.c_double),
    )


def why_not(x: Tensor, form: Form) -> str | None:
    """Why this cannot run here, in one sentence, or None."""
    return native.why_not(x)


@functools.lru_cache(4096)
def problem(shape: torch.Size, dtype: torch.dtype, per_sample: bool, form: Form) -> Problem:
    """The sizes and the form as the kernels take them."""
    pixels = shape[2:].numel()
    samples = shape[0] if per_sample else 1
    return Problem(
        samples, pixels if per_sample else pixels * shape[0], shape[1], form.groups or shape[1],
        ACTS.index(form.act.kind), native.DTYPES[dtype], form.of_batch, form.act.parameter, form.eps,
    )  # fmt: skip


def stats(x: Tensor, per_sample: bool, groups: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and biased variance in the wide dtype, ``[C]`` or ``[N, C]``; x has values."""
    x = native.dense(x)
    shape = x.shape[:2] if per_sample else x.shape[1:2]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
    native.library().fi_cpu_norm_act_stats(
        ctypes.byref(problem(x.shape, x.dtype, per_sample, Form(groups=groups))), x.data_ptr(), mean.data_ptr(),
        var.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return mean, var


def _vector(vector: Tensor | None, like: Tensor) -> Tensor | None:
    """Dense, in the wide dtype."""
    if vector is None:
        return None
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if vector.dtype == dtype and vector.is_contiguous():  # to ask costs a tenth of what the methods do
        return vector
    return vector.to(dtype).contiguous()


def _each(slope: Tensor | None, x: Tensor) -> Tensor | None:
    """The slope of each channel."""
    return None if slope is None else _vector(slope.expand(x.shape[1]), x)


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
    """a, channels-last, in the dtype of x."""
    x = native.dense(x)
    addend = None if addend is None else native.dense(addend)
    a = native.empty_like(x)
    vectors, slopes = list(map(_vector, (mean, var, weight, bias), repeat(x))), _each(slope, x)
    native.library().fi_cpu_norm_act_fwd(
        ctypes.byref(problem(x.shape, x.dtype, mean is not None and mean.dim() == 2, form)), x.data_ptr(),
        address(addend), *map(address, vectors), address(slopes), a.data_ptr(), a.shape[1], 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return a


def rows(x: Tensor) -> int | None:
    """Values between pixels of a map whose channels lie side by side, and its pixels evenly; None for another map."""
    strides, step = x.stride(), x.stride(-1)
    if strides[1] != 1 or step < x.shape[1]:
        return None
    expected = step
    for axis in (*range(x.dim() - 1, 1, -1), 0):
        if x.shape[axis] > 1 and strides[axis] != expected:
            return None
        expected *= x.shape[axis]
    return step


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
    x = native.dense(x)
    stride = rows(da)
    if stride is None:
        da = native.dense(da)
        stride = da.shape[1]
    addend, out = (None if t is None else native.dense(t) for t in (addend, out))
    vectors, slopes = list(map(_vector, (mean, var, weight, bias), repeat(x))), _each(slope, x)
    dx, daddend = (native.empty_like(x) if needed else None for needed in (needs[0], needs[3]))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    dweight, dbias = (
        torch.empty(x.shape[1], dtype=wide) if needed and of is not None and mean is not None else None
        for needed, of in ((needs[1], weight), (needs[2], bias))
    )
    dslope = torch.empty(x.shape[1], dtype=wide) if needs[4] and slope is not None else None
    native.library().fi_cpu_norm_act_bwd(
        ctypes.byref(problem(x.shape, x.dtype, mean is not None and mean.dim() == 2, form)), da.data_ptr(), stride, 0,
        x.data_ptr(), address(addend), address(out), *map(address, vectors), address(slopes), address(dx),
        address(daddend), address(dweight), address(dbias), address(dslope), torch.get_num_threads(),
    )  # fmt: skip
    dweight = dweight if dweight is None or weight is None else dweight.to(weight.dtype)
    dbias = dbias if dbias is None or bias is None else dbias.to(bias.dtype)
    if dslope is not None and slope is not None:
        dslope = dslope.sum_to_size(slope.shape).to(slope.dtype)
    return dx, dweight, dbias, daddend, dslope
