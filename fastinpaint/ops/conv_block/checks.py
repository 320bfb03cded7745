"""The contract of `conv_block`, checked once for every backend."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.ops.activation import checks as activation
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch.fast_path import can_bypass_dispatcher
from fastinpaint.ops.types import Geometry, Source

OP = "conv_block"


def check_tensors(sources: Sequence[Source], weight: Tensor, bias: Tensor | None) -> None:
    """Check that an argument is a dense tensor.

    Raises:
        TypeError: names the op, the argument and what came.
    """
    required = [*((f"sources[{i}].x", source.x) for i, source in enumerate(sources)), ("weight", weight)]
    optional = [*((f"sources[{i}].addend", source.addend) for i, source in enumerate(sources)), ("bias", bias)]
    for name, tensor in (*required, *(each for each in optional if each[1] is not None)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{OP}: {name} must be a tensor, got {type(tensor).__name__}.")
        if tensor.layout != torch.strided:
            raise TypeError(f"{OP}: {name} must be a dense tensor, got one of layout {tensor.layout}.")


def check(sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
    """Check that sources, weight, bias and geometry fit together.

    Raises:
        ValueError, TypeError: names the op, the argument, what is needed and what came.
    """
    activation.check(sources, OP)
    x = sources[0].x
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise TypeError(
                f"{OP}: {name} must be {x.dtype} on {x.device} as the sources, got {tensor.dtype} on {tensor.device}."
            )
    check_weight((x.shape[0], sum(s.x.shape[1] for s in sources), *x.shape[2:]), weight, bias, geometry)


def check_weight(shape: Sequence[int], weight: Tensor, bias: Tensor | None, geometry: Geometry) -> tuple[int, ...]:
    """Weight, bias and geometry against an activation ``[N, C, *space]`` of that shape; returns the shape of y."""
    sizes = tuple(shape), tuple(weight.shape), None if bias is None else tuple(bias.shape), geometry
    return (
        _check_once(*sizes) if can_bypass_dispatcher(weight) else _check_weight(*sizes)
    )  # a compiler's sizes may be symbols


def _check_weight(
    shape: tuple[int, ...], kernel: tuple[int, ...], bias: tuple[int, ...] | None, geometry: Geometry
) -> tuple[int, ...]:
    _check_geometry(len(shape) - 2, geometry)
    if len(kernel) != len(shape):
        raise ValueError(f"{OP}: weight must have {len(shape)} dimensions as the sources, got {kernel}.")
    channels, groups = shape[1], geometry.groups
    if geometry.transposed:
        channels_out = kernel[1] * groups
        if kernel[0] != channels:
            raise ValueError(f"{OP}: weight.shape[0] must equal the sources' {channels} channels, got weight {kernel}.")
    else:
        channels_out = kernel[0]
        if kernel[1] * groups != channels:
            needed = f"the sources' {channels} channels" + (f" / {groups} groups" if groups > 1 else "")
            raise ValueError(f"{OP}: weight.shape[1] must equal {needed}, got weight {kernel}.")
    if channels % groups or channels_out % groups:
        raise ValueError(f"{OP}: groups must divide {channels} channels in and {channels_out} out, got {groups}.")
    if bias is not None and bias != (channels_out,):
        raise ValueError(f"{OP}: bias must be [{channels_out}], one a channel out, got {bias}.")
    return fitting_output_shape(shape, kernel, geometry)


_check_once = functools.lru_cache(4096)(_check_weight)  # called by every layer in every step, which shows in thin nets


def _check_geometry(axes: int, geometry: Geometry) -> None:
    for name, least in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", None)):
        value = getattr(geometry, name)
        if len(value) != axes:
            raise ValueError(f"{OP}: {name} must have {axes} entries, one a spatial axis, got {value}.")
        if least is not None and min(value) < least:
            raise ValueError(f"{OP}: {name} must be at least {least} on every axis, got {value}.")
    if geometry.groups < 1:
        raise ValueError(f"{OP}: groups must be at least 1, got {geometry.groups}.")
    for extra, stride, dilation in zip(geometry.output_padding, geometry.stride, geometry.dilation, strict=True):
        if extra and not geometry.transposed:
            raise ValueError(f"{OP}: output_padding is for transposed convolutions, got {geometry.output_padding}.")
        if extra >= max(stride, dilation):
            raise ValueError(
                f"{OP}: output_padding must be smaller than stride {geometry.stride} or dilation "
                f"{geometry.dilation}, got {geometry.output_padding}."
            )


def fitting_output_shape(shape: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
    """The shape of y for an activation and a weight of these shapes.

    Raises:
        ValueError: the kernel is larger than the padded input.
    """
    y = output_shape(shape, kernel, geometry)
    for size, length in zip(shape[2:], y[2:], strict=True):
        if length < (1 if size or geometry.transposed else 0):
            extra = f", output_padding {geometry.output_padding}" if geometry.transposed else ""
            raise ValueError(
                f"{OP}: the kernel must fit the padded input, got input {shape}, weight {kernel}, "
                f"padding {geometry.padding}{extra} and dilation {geometry.dilation}."
            )
    return y
