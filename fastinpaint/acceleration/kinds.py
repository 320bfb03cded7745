"""Which classes of layers can be fused, and into what: torch's own, and their subclasses that compute the same."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fastinpaint import nn as fused_nn
from fastinpaint.nn import layers

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
# What a subclass may redefine without changing what the layer computes.
_HARMLESS = {
    *("__init__", "__module__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__repr__", "__firstlineno__"),
    *("__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"),
    *("__parameters__", "extra_repr", "reset_parameters"),
}


def learn_subclasses(model: nn.Module) -> None:
    """Add to `FUSED` and `PLAIN` the model's subclasses of torch's layers that compute the same as their parent."""
    for module in model.modules():
        kind = type(module)
        if kind not in FUSED and kind not in PLAIN and not is_parametrized(module):
            _learn(kind)


def torch_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Torch's own class of a layer that can be fused; any other class itself."""
    return next((one for one in kind.__mro__ if one in _TORCHS), kind) if kind in FUSED else kind


def _learn(kind: type[nn.Module]) -> None:
    parent = next((one for one in kind.__mro__ if one in _TORCHS), None)
    if parent is None or not _computes_as(kind, parent):
        return
    body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _reduce}
    FUSED[kind] = fused = type(kind.__name__, (_TORCHS[parent], kind), body)
    PLAIN[fused] = kind


def _computes_as(kind: type[nn.Module], parent: type[nn.Module]) -> bool:
    """Whether no class between the two changes what torch's or the fused layer defines, or adds a property."""
    fused = _TORCHS[parent]
    for one in kind.__mro__:
        if issubclass(parent, one):
            continue  # the parent and its own base classes
        for name, value in vars(one).items():
            if name not in _HARMLESS and (hasattr(parent, name) or hasattr(fused, name) or isinstance(value, property)):
                return False
    return True


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For pickle and copy: a fused subclass has no name that can be imported, so its plain class stands for it."""
    return _remade, (PLAIN[type(module)],), module.__dict__


def _remade(kind: type[nn.Module]) -> nn.Module:
    """An empty module of the fused class of `kind`."""
    if kind not in FUSED:
        _learn(kind)
    fused = FUSED[kind]
    return fused.__new__(fused)
