"""The registered operators of `conv_block`: a backend is chosen inside, so a compiled graph holds one opaque node."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.dispatch.fast_path import (
    TAGS,
    apart,
    below_autograd,
    can_bypass_dispatcher,
    dense,
    empty_if_none,
    no_autocast,
    none_if_empty,
    register,
)
from fastinpaint.ops.layout import FORMATS
from fastinpaint.ops.types import Geometry, Source, SourceGrad, unflatten

OP = "conv_block"
GEOMETRY = "int[] stride, int[] padding, int[] dilation, int[] output_padding, bool transposed, int groups"
_library = Library("fastinpaint", "FRAGMENT")
_library.define(
    "conv_block_fwd(Tensor?[] sources, int[] relus, Tensor weight, Tensor? bias, bool stats, str backend, "
    f"{GEOMETRY}) -> (Tensor, Tensor, Tensor)",
    tags=TAGS,
)
_library.define(
    "conv_block_bwd(Tensor dy, Tensor? dmean, Tensor? dvar, Tensor? y, Tensor? mean, Tensor?[] sources, int[] relus, "
    f"Tensor weight, bool[] needs, bool needs_weight, bool needs_bias, str backend, {GEOMETRY}) -> Tensor[]",
    tags=TAGS,
)
_library.define("batch_stats(Tensor x, str backend) -> (Tensor, Tensor)", tags=TAGS)

Flat = list[Tensor | None]


def geometry_of(
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int], *rest: Any
) -> Geometry:
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), tuple(output_padding), *rest)


def choose(backend: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> ModuleType:
    """The module that runs a convolution."""
    return registry.choose(OP, backend, weight.device, sources, weight, geometry)


def run_fwd(
    fake: bool,
    flat: Flat,
    relus: list[int],
    weight: Tensor,
    bias: Tensor | None,
    stats: bool,
    backend: str,
    *axes: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """For fake tensors the reference gives the shapes, and the backend that would run gives the layout."""
    sources, geometry = unflatten(flat, relus), geometry_of(*axes)
    with no_autocast(weight.device):
        module = choose(backend, sources, weight, geometry)
        y, mean, var = (reference if fake else module).fwd(sources, weight, bias, geometry, stats)
    if fake and module.CHANNELS_LAST:
        y = dense(y)
    return y, empty_if_none(mean, y), empty_if_none(var, y)


def run_bwd(
    fake: bool,
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    y: Tensor | None,
    mean: Tensor | None,
    flat: Flat,
    relus: list[int],
    weight: Tensor,
    needs: list[bool],
    needs_weight: bool,
    needs_bias: bool,
    *options: Any,
) -> list[Tensor]:
    backend, *axes = options
    sources, geometry = unflatten(flat, relus), geometry_of(*axes)
    with no_autocast(weight.device):
        module = choose(backend, sources, weight, geometry)
        grads, dweight, dbias = (reference if fake else module).bwd(
            dy, dmean, dvar, y, mean, sources, weight, geometry, needs, needs_weight, needs_bias
        )
    if fake and module.CHANNELS_LAST:
        grads = [
            g._replace(x=None if g.x is None else dense(g.x), addend=None if g.addend is None else dense(g.addend))
            for g in grads
        ]
        kept = getattr(module, "KEEPS_WEIGHT_LAYOUT", False)
        layout = torch.preserve_format if kept else torch.contiguous_format
        dweight = None if dweight is None else torch.empty_like(weight, memory_format=layout)
    return [empty_if_none(t, dy) for t in pack(grads, dweight, dbias, dy, module)]


def pack(
    grads: Sequence[SourceGrad], dweight: Tensor | None, dbias: Tensor | None, like: Tensor, module: Any
) -> list[Tensor | None]:
    """The gradients as one list. An addend's gradient that is the same tensor as x's is left out, not copied."""
    flat: list[Tensor | None] = []
    for dx, dmean, dscale, dshift, daddend in grads:
        flat += (dx, dmean, dscale, dshift, None if daddend is dx else daddend)
    flat += (dweight, dbias)
    return flat if getattr(module, "FRESH_GRADIENTS", False) else apart(flat, like)


def _batch_stats(fake: bool, x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    if fake:
        return reference.batch_stats(x)
    module = registry.choose("activation", backend, x.device, [Source(x)])
    if not hasattr(module, "batch_stats"):  # a backend may have it in either of its modules
        module = importlib.import_module(module.__name__.replace(".activation.", f".{OP}."))
    with no_autocast(x.device):
        return module.batch_stats(x)


for _name, _function in (("conv_block_fwd", run_fwd), ("conv_block_bwd", run_bwd), ("batch_stats", _batch_stats)):
    register(_library, _name, partial(_function, False), partial(_function, True))


class Call(NamedTuple):
    """All of a call that is no tensor.

    Attributes:
        relus: the relu of each source.
        stats: whether batch statistics are wanted.
        backend: a name or "auto".
        module: what runs it where nothing observes the call, chosen once for all passes: a backend, or what it has
            prepared for these shapes, which has the same functions. None under a compiler.
        with_norm: whether that can run the following batch norm in the same node of the graph.
        norm_module: what then runs the batch norm; None where module does.
        unguarded: whether module calls nothing that autograd or autocast would change.
        packs: whether the nodes give module the weight with its channels innermost: one copy for both passes.
    """

    relus: tuple[int, ...]
    geometry: Geometry
    stats: bool
    backend: str
    module: Any
    with_norm: bool = False
    norm_module: ModuleType | None = None
    unguarded: bool = False
    packs: bool = False


def call_of(
    sources: Sequence[Source], weight: Tensor, geometry: Geometry, stats: bool, backend: str, packs: bool = False
) -> Call:
    """All of a call that is no tensor."""
    if packs:
        weight = weight.detach().contiguous(memory_format=FORMATS[weight.dim()])
    module: Any = None if torch.compiler.is_dynamo_compiling() else choose(backend, sources, weight, geometry)
    if hasattr(module, "prepare"):
        module = module.prepare(sources, weight, geometry) or module
    norm_module = None if module is None or not hasattr(module, "norm_module") else module.norm_module()
    with_norm = (norm_module is not None or hasattr(module, "fwd_norm")) and all(s.x.numel() for s in sources)
    relus, unguarded = tuple([s.relu for s in sources]), getattr(module, "UNGUARDED", False)
    return Call(relus, geometry, stats, backend, module, with_norm, norm_module, unguarded, packs)


def fwd(call: Call, flat: Flat, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var; without statistics the latter two are empty."""
    relus, geometry, stats, backend, module, *_ = call
    if module is None or not can_bypass_dispatcher(weight, bias, *flat):
        return torch.ops.fastinpaint.conv_block_fwd.default(flat, relus, weight, bias, stats, backend, *geometry)
    with below_autograd(weight.device):
        if call.packs:
            weight = weight.contiguous(memory_format=FORMATS[weight.dim()])
        y, mean, var = module.fwd(unflatten(flat, relus), weight, bias, geometry, stats)
        return (y, mean, var) if stats else (y, y.new_empty(0), y.new_empty(0))


def with_zeros(
    dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None, y: Tensor | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dy, dmean and dvar as backends take them, with zeros for gradients that are None beside others."""
    if y is None or mean is None:
        dmean = dvar = None
    else:
        if dmean is not None or dvar is not None:
            dmean = torch.zeros_like(mean) if dmean is None else dmean
            dvar = torch.zeros_like(mean) if dvar is None else dvar
        dy = torch.zeros_like(y) if dy is None else dy
    assert dy is not None
    return dy, dmean, dvar


def bwd(
    call: Call,
    dy: Tensor,
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
    """The gradients of the flattened sources, of the weight and of the bias, by the registered operator."""
    packed = torch.ops.fastinpaint.conv_block_bwd.default(
        dy, dmean, dvar, y, mean, flat, call.relus, weight, needs, needs_weight, needs_bias, call.backend,
        *call.geometry,
    )  # fmt: skip
    *dflat, dweight, dbias = [none_if_empty(g) for g in packed]
    return with_addends(dflat, flat, needs), dweight, dbias


def flat_gradients(
    grads: Sequence[SourceGrad],
    dweight: Tensor | None,
    dbias: Tensor | None,
    flat: Sequence[Tensor | None],
    like: Tensor,
    module: Any,
    needs: Sequence[bool],
) -> tuple[list[Tensor | None], Tensor | None, Tensor | None]:
    """A backend's results as a node returns them: the gradients of the flattened sources, dweight and dbias."""
    if not getattr(module, "FRESH_GRADIENTS", False):
        *found, dweight, dbias = pack(grads, dweight, dbias, like, module)
        return with_addends(found, flat, needs), dweight, dbias
    found = []
    for grad in grads:
        found += grad
    return found, dweight, dbias


def with_addends(
    grads: list[Tensor | None], flat: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the flattened sources. An addend's is x's if `pack` left it out."""
    for i, addend in enumerate(flat[4::5]):
        if addend is not None and needs[i] and grads[5 * i + 4] is None:
            grads[5 * i + 4] = grads[5 * i]
    return grads
