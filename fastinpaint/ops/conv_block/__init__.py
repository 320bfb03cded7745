"""`conv_block`: convolution of deferred activations, with batch statistics of its result. See `reference`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastinpaint.ops.activation import checks as activation
from fastinpaint.ops.conv_block import autograd, checks, torch_library
from fastinpaint.ops.dispatch.fast_path import autocast
from fastinpaint.ops.types import Geometry, Source

__all__ = ["batch_stats", "conv_block"]

Axes = int | Sequence[int]


def conv_block(
    sources: Tensor | Source | Sequence[Tensor | Source],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Axes = 0,
    dilation: Axes = 1,
    output_padding: Axes = 0,
    transposed: bool = False,
    groups: int = 1,
    stats: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """A convolution that applies batch norm, ReLU, addition and concatenation while it loads its input.

        y = conv(concat_i a_i, weight) + bias,   a_i = (relu(z_i) if relu_i else z_i) + addend_i
        z_i = (x_i - mean_i) * scale_i + shift_i
        mean_c = sum y / M,   var_c = sum (y - mean_c)^2 / M,   M = N * T * H * W of y

    For backward the raw maps x_i and y are kept, nothing else of their size. Differentiable in everything, twice too.
    Under autocast float32 and narrower tensors are cast to autocast's dtype, as torch's convolutions do.

    Args:
        sources: what is concatenated over the channels: maps ``[N, C_i, T, H, W]`` or ``[N, C_i, H, W]``, or `Source`.
        weight: ``[C_out, sum C_i / groups, *kernel]``; transposed: ``[sum C_i, C_out / groups, *kernel]``.
        bias: ``[C_out]`` or None.
        stride, padding, dilation, output_padding: one number, or one a spatial axis, as in ``torch.nn.ConvNd``. A
            negative output_padding leaves so many rows off at the end of y.
        transposed: the transposed convolution.
        groups: as in ``torch.nn.ConvNd``.
        stats: also return the batch statistics of y.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS`; None for ``FASTINPAINT_BACKEND`` or auto.

    Returns:
        y ``[N, C_out, *space]``, in the dtype of the sources; with stats also mean and biased variance ``[C_out]``,
        float32 (float64 for float64 maps).

    Raises:
        ValueError, TypeError: names the argument, what is needed and what came.
        NotImplementedError: the backend was asked for by name and cannot run this.
    """
    one = isinstance(sources, Source) or not isinstance(sources, Sequence)
    several = [s if isinstance(s, Source) else Source(s) for s in ([sources] if one else sources)]  # type: ignore[arg-type]
    if not several:
        raise ValueError("conv_block: sources must hold at least one map, got none.")
    checks.check_tensors(several, weight, bias)
    if not isinstance(groups, int):
        raise TypeError(f"conv_block: groups must be a whole number, got {groups!r}.")
    axes = several[0].x.dim() - 2
    geometry = Geometry(
        _per_axis("stride", stride, axes),
        _per_axis("padding", padding, axes),
        _per_axis("dilation", dilation, axes),
        _per_axis("output_padding", output_padding, axes),
        transposed,
        groups,
    )
    several = [s._replace(x=autocast(s.x), addend=None if s.addend is None else autocast(s.addend)) for s in several]
    weight, bias = autocast(weight), None if bias is None else autocast(bias)
    checks.check(several, weight, bias, geometry)
    call = torch_library.call_of(several, weight, geometry, stats, backend or "auto")
    y, mean, var = autograd.apply(call, several, weight, bias)
    return (y, mean, var) if stats else y


def batch_stats(x: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of ``[N, C, *space]``, float32 (float64 for float64); differentiable."""
    activation.check([Source(x)], "batch_stats")
    return autograd.BatchStats.apply(backend or "auto", x)


def _per_axis(name: str, value: Axes, axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * axes
    if not isinstance(value, Sequence) or not all(isinstance(entry, int) for entry in value):
        raise TypeError(f"conv_block: {name} must be a whole number or several, got {value!r}.")
    return tuple(value)
