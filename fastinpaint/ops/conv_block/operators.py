"""The registered operators of `conv_block`: a backend is chosen inside, so a compiled graph holds one opaque node."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastinpaint import backends
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.dispatch import TAGS, apart, dense, empty_if_none, no_autocast, none_if_empty
from fastinpaint.ops.types import Geometry, Source, SourceGrad, unflatten

if TYPE_CHECKING:
    from fastinpaint.ops.conv_block.autograd import Call

OP = "conv_block"
GEOMETRY = "int[] stride, int[] padding, int[] dilation, int[] output_padding, bool transposed, int groups"
_library = Library("fastinpaint", "FRAGMENT")
_library.define(
    f"conv_block_fwd(Tensor?[] sources, bool[] relus, Tensor weight, Tensor? bias, {GEOMETRY}, bool stats, "
    "str backend) -> (Tensor, Tensor, Tensor)",
    tags=TAGS,
)
_library.define(
    "conv_block_bwd(Tensor dy, Tensor? dmean, Tensor? dvar, Tensor? y, Tensor? mean, Tensor?[] sources, bool[] relus, "
    f"Tensor weight, {GEOMETRY}, bool[] needs, bool needs_weight, bool needs_bias, str backend) -> Tensor[]",
    tags=TAGS,
)
_library.define("batch_stats(Tensor x, str backend) -> (Tensor, Tensor)", tags=TAGS)

Flat = list[Tensor | None]


def _geometry(
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    transposed: bool,
    groups: int,
) -> Geometry:
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), tuple(output_padding), transposed, groups)


def _fwd(
    flat: Flat,
    relus: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    transposed: bool,
    groups: int,
    stats: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    sources = unflatten(flat, relus)
    geometry = _geometry(stride, padding, dilation, output_padding, transposed, groups)
    with no_autocast(weight.device):
        module = backends.choose(OP, backend, weight.device, sources, weight, geometry)
        y, mean, var = module.fwd(sources, weight, bias, geometry, stats)
    return y, empty_if_none(mean, y), empty_if_none(var, y)


def _fwd_fake(
    flat: Flat,
    relus: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    transposed: bool,
    groups: int,
    stats: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    sources = unflatten(flat, relus)
    geometry = _geometry(stride, padding, dilation, output_padding, transposed, groups)
    module = backends.choose(OP, backend, weight.device, sources, weight, geometry)
    y, mean, var = reference.fwd(sources, weight, bias, geometry, stats)
    return dense(y) if module.CHANNELS_LAST else y, empty_if_none(mean, y), empty_if_none(var, y)


def _bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    flat: Flat,
    relus: list[bool],
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    transposed: bool,
    groups: int,
    needs: list[bool],
    needs_weight: bool,
    needs_bias: bool,
    backend: str,
) -> list[Tensor]:
    sources = unflatten(flat, relus)
    geometry = _geometry(stride, padding, dilation, output_padding, transposed, groups)
    with no_autocast(weight.device):
        module = backends.choose(OP, backend, weight.device, sources, weight, geometry)
        grads, dweight, dbias = module.bwd(
            dy, dmean, dvar, y, mean, sources, weight, geometry, needs, needs_weight, needs_bias
        )
    return _pack(grads, dweight, dbias, dy)


def _bwd_fake(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    flat: Flat,
    relus: list[bool],
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    transposed: bool,
    groups: int,
    needs: list[bool],
    needs_weight: bool,
    needs_bias: bool,
    backend: str,
) -> list[Tensor]:
    sources = unflatten(flat, relus)
    geometry = _geometry(stride, padding, dilation, output_padding, transposed, groups)
    module = backends.choose(OP, backend, weight.device, sources, weight, geometry)
    grads, dweight, dbias = reference.bwd(
        dy, dmean, dvar, y, mean, sources, weight, geometry, needs, needs_weight, needs_bias
    )
    if module.CHANNELS_LAST:
        grads = [
            g._replace(x=None if g.x is None else dense(g.x), addend=None if g.addend is None else dense(g.addend))
            for g in grads
        ]
        dweight = None if dweight is None else torch.empty_like(dweight, memory_format=torch.contiguous_format)
    return _pack(grads, dweight, dbias, dy)


def _pack(grads: Sequence[SourceGrad], dweight: Tensor | None, dbias: Tensor | None, like: Tensor) -> list[Tensor]:
    """One list of tensors; an addend's gradient that is x's very own is left out, not copied."""
    flat = [g for grad in grads for g in (grad if grad.addend is not grad.x else grad._replace(addend=None))]
    return apart([*flat, dweight, dbias], like)


def _batch_stats(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    module = backends.choose("activation", backend, x.device, [Source(x)])
    if not hasattr(module, "batch_stats"):  # it may stand in either room of a backend
        module = importlib.import_module(module.__name__.replace(".activation.", f".{OP}."))
    with no_autocast(x.device):
        return module.batch_stats(x)


def _batch_stats_fake(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return reference.batch_stats(x)


for _name, _implementation, _fake in (
    ("conv_block_fwd", _fwd, _fwd_fake),
    ("conv_block_bwd", _bwd, _bwd_fake),
    ("batch_stats", _batch_stats, _batch_stats_fake),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    register_fake(f"fastinpaint::{_name}", _fake, lib=_library)


def fwd(call: Call, flat: Flat, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var; without statistics the latter two are empty."""
    return torch.ops.fastinpaint.conv_block_fwd.default(
        flat, list(call.relus), weight, bias, *_lists(call.geometry), call.stats, call.backend
    )


def bwd(
    call: Call,
    dy: Tensor | None,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    flat: Flat,
    weight: Tensor,
    needs: Sequence[bool],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[list[Tensor | None], Tensor | None, Tensor | None]:
    """The gradients of the flattened sources, of the weight and of the bias; gradients in that are None are zero."""
    if y is None or mean is None:
        dmean = dvar = None
    else:
        if dmean is not None or dvar is not None:
            dmean = torch.zeros_like(mean) if dmean is None else dmean
            dvar = torch.zeros_like(mean) if dvar is None else dvar
        dy = torch.zeros_like(y) if dy is None else dy
    assert dy is not None
    found = torch.ops.fastinpaint.conv_block_bwd.default(
        dy, dmean, dvar, y, mean, flat, list(call.relus), weight, *_lists(call.geometry), list(needs), needs_weight,
        needs_bias, call.backend,
    )  # fmt: skip
    grads = [none_if_empty(g) for g in found]
    for i, addend in enumerate(flat[4::5]):
        if addend is not None and needs[i] and grads[5 * i + 4] is None:
            grads[5 * i + 4] = grads[5 * i]
    return grads[:-2], grads[-2], grads[-1]


def _lists(geometry: Geometry) -> tuple[list[int], list[int], list[int], list[int], bool, int]:
    stride, padding, dilation, output_padding, transposed, groups = geometry
    return list(stride), list(padding), list(dilation), list(output_padding), transposed, groups
