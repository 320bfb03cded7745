"""Which classes of layers can be fused, and into what: torch's own, and their subclasses that compute the same."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fastinpaint import nn as fused_nn
from fastinpaint.nn import layers
from fastinpaint.nn.sequential import Row

OTHERS = (
    *("ReLU6", "LeakyReLU", "ELU", "SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "GELU", "Softplus", "Mish"),
    *("PReLU", "Linear", "LayerNorm"),
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
_TORCHS = dict(FUSED)
_ROWS: dict[type[nn.Module], type[nn.Module]] = {nn.Sequential: Row}
_PLAIN_ROWS: dict[type[nn.Module], type[nn.Module]] = {Row: nn.Sequential}
# What a subclass may redefine without changing what the layer computes.
_HARMLESS = {
    *("__init__", "__module__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__repr__", "__firstlineno__"),
    *("__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"),
    *("__parameters__", "extra_repr", "reset_parameters"),
}


def learn_subclasses(model: nn.Module) -> None:
    """Add to `FUSED` and `PLAIN` the model's subclasses of torch's layers that compute the same as their parent."""
    for module in model.modules():
        kind = layer_class(module)
        if kind not in FUSED and kind not in PLAIN:
            _learn(kind)


def layer_class(module: nn.Module) -> type[nn.Module]:
    """A module's class, without the one that `torch.nn.utils.parametrize` has derived from it."""
    kind = type(module)
    return kind.__bases__[0] if is_parametrized(module) else kind


def torch_class(module: nn.Module) -> type[nn.Module]:
    """Torch's own class of a layer that can be fused; the class of any other module."""
    kind = layer_class(module)
    return next((one for one in kind.__mro__ if one in _TORCHS), kind) if kind in FUSED else kind


def is_fusable(module: nn.Module) -> bool:
    """Whether it is a stock layer whose class has a fused one."""
    return layer_class(module) in FUSED


def is_fused(module: nn.Module) -> bool:
    """Whether it is a fused layer."""
    return layer_class(module) in PLAIN


def fused_class(module: nn.Module) -> type[nn.Module]:
    """The fused class of a stock layer. It computes parametrized weights as the layer's own class does."""
    return _derived(module, FUSED[layer_class(module)])


def plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a fused layer had before; None for other modules."""
    parent = PLAIN.get(layer_class(module))
    return None if parent is None else _derived(module, parent)


def row_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What a row of layers becomes inside an accelerated model; None unless it computes as ``torch.nn.Sequential``."""
    if kind not in _ROWS and issubclass(kind, nn.Sequential) and _computes_as(kind, nn.Sequential, Row):
        body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _reduce}
        _ROWS[kind] = row = type(kind.__name__, (Row, kind), body)
        _PLAIN_ROWS[row] = kind
    return _ROWS.get(kind)


def plain_row(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that such a row had before; None for other classes."""
    return _PLAIN_ROWS.get(kind)


def _derived(module: nn.Module, parent: type[nn.Module]) -> type[nn.Module]:
    """The parent. If the module is parametrized, a class with its properties over that parent."""
    if not is_parametrized(module):
        return parent
    kind = type(module)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (parent,), own)


def _learn(kind: type[nn.Module]) -> None:
    parent = next((one for one in kind.__mro__ if one in _TORCHS), None)
    if parent is None or not _computes_as(kind, parent, _TORCHS[parent]):
        return
    body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _reduce}
    FUSED[kind] = fused = type(kind.__name__, (_TORCHS[parent], kind), body)
    PLAIN[fused] = kind


def _computes_as(kind: type[nn.Module], parent: type[nn.Module], fused: type[nn.Module]) -> bool:
    """Whether no class between the two changes what torch's or the fused layer defines, or adds a property."""
    for one in kind.__mro__:
        if issubclass(parent, one):
            continue  # the parent and its own base classes
        for name, value in vars(one).items():
            if name not in _HARMLESS and (hasattr(parent, name) or hasattr(fused, name) or isinstance(value, property)):
                return False
    return True


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For pickle and copy: a derived class has no name that can be imported, so its plain class stands for it."""
    kind = type(module)
    return _remade, (plain_row(kind) or PLAIN[kind],), module.__dict__


def _remade(kind: type[nn.Module]) -> nn.Module:
    """An empty module of the class that `kind` becomes, a row's or a fused layer's."""
    made = row_class(kind)
    if made is None:
        if kind not in FUSED:
            _learn(kind)
        made = FUSED[kind]
    return made.__new__(made)
