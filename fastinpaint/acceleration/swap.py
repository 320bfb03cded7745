"""Swaps a model's layers for fused ones in place, as a `Plan` says, and swaps them back."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeGuard, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.padding import _ConstantPadNd

from fastinpaint.acceleration.borders import BORDERS, GUARDS, add_border_hooks, guard_gradients
from fastinpaint.acceleration.kinds import (
    FUSED,
    fused_class,
    is_fusable,
    is_fused,
    learn_subclasses,
    plain_class,
    plain_row,
    torch_class,
)
from fastinpaint.acceleration.layout import overruns
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.root import Root, can_derive, fit, own_class
from fastinpaint.acceleration.settled import KEEPERS
from fastinpaint.nn import layers
from fastinpaint.nn.padded import zeros_of
from fastinpaint.nn.raw import Options
from fastinpaint.nn.sequential import Sequential
from fastinpaint.ops.conv_block.zero_padding import absorbed

NORMS = (_NormBase, nn.GroupNorm)
Model = TypeVar("Model", bound=nn.Module)


def swap(model: nn.Module, plan: Plan, backend: str) -> tuple[list[str], dict[str, str]]:
    """Fuse the plan's layers and put hooks at their borders.

    Args:
        model: a model with stock layers only; changed in place.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS` or "auto".

    Returns:
        The names of the fused layers, and the layers that cannot be fused with the reason.
    """
    swapped: list[str] = []
    left: dict[str, str] = {}
    learn_subclasses(model)
    unread = _unfusable_padding(model)
    if plan.stock:
        if plan.channels_last:
            guard_gradients(model)
        fit(model)
        return swapped, reasons(model)
    read_by_fused = _read_by_fused(model)
    contiguous = plan.contiguous or any(
        overruns(module) and not (is_fusable(module) and why_not(module) is None and _is_wanted(plan, name, module))
        for name, module in model.named_modules()
    )  # what stays stock must not read channels-last maps then
    for name, module in list(model.named_modules()):
        reason = why_not(module) or unread.get(module)
        if reason is not None:
            left[name] = reason
        elif is_fusable(module) and _is_wanted(plan, name, module):
            module.__class__ = fused_class(module)
            tier = plan.tier(name) or plan.memory
            module._fastinpaint = Options(backend, tier, module not in read_by_fused, contiguous, name)
            module._fastinpaint_accelerated = True
            if name in plan.plain:
                module._fastinpaint_plain = True
            if plan.by_rule and isinstance(module, NORMS):
                module._fastinpaint_follows = True  # type: ignore[assignment]
            swapped.append(name)
    add_border_hooks(model, is_fused, root=not can_derive(model))
    guard_gradients(model)
    fit(model, Sequential if own_class(type(model)) is nn.Sequential else None)
    return swapped, left


def _read_by_fused(model: nn.Module) -> set[nn.Module]:
    """The layers whose result an nn.Sequential passes to a fusable layer and to nothing else.

    Under a compiler only these are deferred, because it cannot trace what other code may do with a deferred tensor.
    """
    rows = [m for m in model.modules() if _is_row(m)]
    return {one for row in rows for one, other in pairwise(row) if is_fusable(one) and is_fusable(other)}


def _is_row(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it passes what a layer returns to the next one, and nothing else."""
    forwards = (nn.Sequential.forward, Sequential.forward)
    return isinstance(module, nn.Sequential) and own_class(type(module)).forward in forwards


def _is_wanted(plan: Plan, name: str, module: nn.Module) -> bool:
    """Whether the plan fuses the layer. Activations and padding only forward deferred inputs."""
    if isinstance(module, _ConvNd | nn.Linear) or (isinstance(module, NORMS) and not plan.by_rule):
        return plan.tier(name) is not None
    return not (plan.by_rule and isinstance(module, nn.LayerNorm))  # by rule no linear layer after it is fused


def unswap(model: Model) -> Model:
    """Give every module its own class back. Returns the model."""
    for module in model.modules():
        if "_fastinpaint" in vars(module) and (kind := plain_class(module)) is not None:
            module.__class__ = kind
            del module._fastinpaint, module._fastinpaint_accelerated
            vars(module).pop("_fastinpaint_follows", None)
        for handle in (*vars(module).pop(BORDERS, ()), *vars(module).pop(GUARDS, ())):
            handle.remove()
        row = nn.Sequential if type(module) is Sequential else plain_row(type(module))
        if row is not None:
            module.__class__ = row
        elif isinstance(module, Root):
            fit(module, nn.Sequential if own_class(type(module)) is Sequential else None)
        vars(module).pop("_fastinpaint_plain", None)
        vars(module).pop(KEEPERS, None)
    return model


def reasons(model: nn.Module) -> dict[str, str]:
    """The layers of a supported kind that cannot be fused, with the reason."""
    unread = _unfusable_padding(model)
    found = {name: why_not(module) or unread.get(module) for name, module in model.named_modules()}
    return {name: reason for name, reason in found.items() if reason is not None}


def why_not(module: nn.Module) -> str | None:
    """Why a layer of a supported kind cannot be fused, in one sentence, or None."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "its parameters get their shapes in the first call."
    if is_fusable(module) and (changed := _changed_method(module)):
        return f"somebody has replaced its method {changed}."
    if not is_fusable(module):
        kind = next((k for k in FUSED if isinstance(module, k) and not is_fused(module)), None)
        if kind is None or issubclass(kind, nn.Linear | nn.LayerNorm):
            return None
        return f"{type(module).__name__} is a subclass of {kind.__name__}, and may compute something else."
    if isinstance(module, _ConvNd):
        if module.padding_mode != "zeros":
            return f"padding_mode is {module.padding_mode!r}; only 'zeros' is fused."
        if layers.geometry_of(module) is None:
            return "padding='same' pads the two ends of an axis differently here."
    return layers.pads_otherwise(module) if isinstance(module, _ConstantPadNd) else None


def _changed_method(module: nn.Module) -> str | None:
    """The method of a layer, or of torch's own class of it, that somebody has replaced by one of theirs, or None.

    ``forward`` as an attribute of a layer is called as it is, in place of the fused one.
    """
    if "_conv_forward" in vars(module):
        return "_conv_forward"
    kind = torch_class(module)
    methods = {name: getattr(kind, name, None) for name in ("forward", "_conv_forward")}
    return next((name for name, of in methods.items() if of and not of.__module__.startswith("torch.")), None)


def _unfusable_padding(model: nn.Module) -> dict[nn.Module, str]:
    """The padding modules in an nn.Sequential whose reader needs a plain tensor, with the reason."""
    reasons: dict[nn.Module, list[str | None]] = {}
    for row in model.modules():
        if not _is_row(row):
            continue
        children = [child for child in row if type(child) is not nn.Identity]
        for pad, reader in pairwise(children):
            if is_fusable(pad) and isinstance(pad, _ConstantPadNd):
                reasons.setdefault(pad, []).append(_why_unfusable(pad, reader))
    return {pad: found[0] for pad, found in reasons.items() if found[0] is not None and None not in found}


def _why_unfusable(pad: _ConstantPadNd, reader: nn.Module) -> str | None:
    """Why a module cannot merge the zeros around its input into its own padding, or None."""
    if not is_fusable(reader) and any(is_fusable(module) for module in reader.modules()):
        return None  # a container: its reader is not known
    if not isinstance(reader, _ConvNd) or not is_fusable(reader):
        return f"only a convolution takes zeros for padding of its own, and {type(reader).__name__} follows."
    if (reason := why_not(reader)) is not None:
        return f"the convolution that follows is left: {reason}"
    around = zeros_of(pad.padding, 2 + len(reader.kernel_size))
    if around is None:
        return f"its padding {pad.padding} is none of the spatial axes of the convolution that follows."
    geometry = layers.geometry_of(reader)
    assert geometry is not None  # by `why_not`
    found = absorbed(geometry, around)
    return found if isinstance(found, str) else None
