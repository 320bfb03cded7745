"""Which class of module has which fused class: torch's own layers, and subclasses that compute the same."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fastinpaint import nn as fused_nn
from fastinpaint.nn import layers

OTHERS = (
    *("ReLU6", "LeakyReLU", "ELU", "SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "GELU", "Softplus", "Mish"),
    *("Dropout", "Dropout2d", "Dropout3d", "InstanceNorm2d", "InstanceNorm3d", "GroupNorm"),
)
FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: layers.Conv2d,
    nn.Conv3d: layers.Conv3d,
    nn.ConvTranspose2d: layers.ConvTranspose2d,
    nn.ConvTranspose3d: layers.ConvTranspose3d,
    nn.BatchNorm2d: layers.BatchNorm2d,
    nn.BatchNorm3d: layers.BatchNorm3d,
    nn.SyncBatchNorm: layers.SyncBatchNorm,
    nn.ReLU: layers.ReLU,
    nn.ZeroPad2d: layers.ZeroPad2d,
    nn.ZeroPad3d: layers.ZeroPad3d,
    nn.ConstantPad2d: layers.ConstantPad2d,
    nn.ConstantPad3d: layers.ConstantPad3d,
    **{getattr(nn, name): getattr(fused_nn, name) for name in OTHERS},
}
PLAIN = {fused: plain_class for plain_class, fused in FUSED.items()}

# What a subclass may define without computing something else: how it is built, described and documented.
HARMLESS = {
    *("__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__repr__", "extra_repr"),
    *("__annotations__", "__annotations_cache__", "__annotate__", "__annotate_func__", "__static_attributes__"),
    *("__firstlineno__", "__parameters__", "__orig_bases__", "__constants__", "reset_parameters"),
}
TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@functools.cache
def fused_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The fused class of torch's own class, or of a subclass that computes the same; None for others.

    The fused class of a subclass derives from it too, so that ``isinstance`` and the subclass's methods work.
    """
    if kind in FUSED:
        return FUSED[kind]
    base = next((base for base in kind.__mro__ if base in FUSED), None)
    if base is None or issubclass(kind, layers._Layer) or overridden(kind, base) is not None:
        return None
    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_fastinpaint_class": kind}
    return type(kind.__name__, (FUSED[base], kind), {**own, "__reduce_ex__": _reduce})


def overridden(kind: type[nn.Module], base: type[nn.Module]) -> str | None:
    """The name of something that a subclass overrides, or adds, that may change what its base computes; or None."""
    if type(kind) is not type:
        return f"its metaclass {type(kind).__name__}"
    for parent in kind.__mro__:
        if parent in base.__mro__:
            continue
        for name, value in vars(parent).items():
            changes = hasattr(base, name) or name in TENSORS or hasattr(type(value), "__set__")
            if name not in HARMLESS and (changes or name.startswith(("__", "_fastinpaint"))):
                return name
    return None


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """For pickle and deepcopy: a fused class of a subclass has no name of its own that could be imported."""
    return _rebuilt, (type(module)._fastinpaint_class,), vars(module)  # type: ignore[attr-defined]


def _rebuilt(kind: type[nn.Module]) -> nn.Module:
    fused = fused_class(kind)
    assert fused is not None
    return fused.__new__(fused)


def is_fused(module: nn.Module) -> bool:
    """Whether a module is of a fused class."""
    return type(module) in PLAIN or "_fastinpaint_class" in vars(type(module))


def is_fusable(module: nn.Module) -> bool:
    """Whether a module is of a class that has a fused class."""
    return fused_class(type(module)) is not None


def torch_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Torch's own class that a subclass with a fused class stands for; any other class itself."""
    return kind if fused_class(kind) is None else next(base for base in kind.__mro__ if base in FUSED)


def plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a fused layer had before; None for other modules.

    `torch.nn.utils.parametrize` derives a class from the fused one; here it is derived from the original class.
    """
    kind, parent = type(module), type(module).__bases__[0]
    if is_parametrized(module) and (before := _plain(parent)) is not None:
        own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        return type(kind.__name__, (before,), own)
    return _plain(kind)


def _plain(kind: type[nn.Module]) -> type[nn.Module] | None:
    return vars(kind).get("_fastinpaint_class") or PLAIN.get(kind)
