"""Keys of a model's calls: what a choice depends on, in a process and in the file of remembered choices."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain, filterfalse
from operator import attrgetter, is_
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fastinpaint import _version
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.root import own_class
from fastinpaint.ops.dispatch import autotune, native, tuning_cache

MOST_ALIKE = 8  # measured calls that differ in shapes alone, or in modes alone; further ones use the nearest one's plan
TRAINING, REQUIRES_GRAD = attrgetter("training"), attrgetter("requires_grad")
IS_NONE = functools.partial(is_, None)
Choice = TypeVar("Choice")


class Key(NamedTuple):
    """What the choice for a call depends on, besides the model's structure.

    Attributes:
        maps: the shape, dtype and device of each tensor argument, and whether it requires gradients.
        training: one byte per module: whether it is in training mode.
        gradients: one byte per parameter: whether it requires gradients. Empty where gradients are disabled.
        grad: whether gradients are enabled.
        cast: autocast's dtype, or None.
        threads: torch's threads.
    """

    maps: tuple[Any, ...]
    training: bytes
    gradients: bytes
    grad: bool
    cast: torch.dtype | None
    threads: int

    @property
    def setting(self) -> tuple[Any, ...]:
        """Everything but the maps and the modes of modules and parameters."""
        return self.grad, self.cast, self.threads


class Modes:
    """Reads the modes of a model's modules and parameters, in about 30 us for the 160 parameters of ResNet-50.

    The modules are listed once. They are listed again where one was replaced, added or removed.
    """

    def __init__(self) -> None:
        self._listed: _Listed | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Modes, ()  # a copy lists the modules of its own model

    def of(self, model: nn.Module, grad: bool) -> tuple[bytes, bytes]:
        """`Key.training` and `Key.gradients` of a model.

        Args:
            grad: whether gradients are enabled.
        """
        listed = self._listed
        if listed is None or listed.modules[0] is not model or _values(listed.children) != listed.found:
            listed = self._listed = _Listed.of(model)
        if not grad:
            return bytes(map(TRAINING, listed.modules)), b""
        gradients = listed.gradients()
        if len(gradients) != listed.size:  # a leaf has lost a parameter, perhaps to a child of its own
            listed = self._listed = _Listed.of(model)
            gradients = listed.gradients()
        return bytes(map(TRAINING, listed.modules)), gradients


class _Listed(NamedTuple):
    """A model's modules, and the dictionaries in which they keep their children and parameters.

    Attributes:
        found: what `children` held when they were listed.
        size: the number of parameters then.
    """

    modules: list[nn.Module]
    children: list[dict[str, Any]]
    parameters: list[dict[str, Any]]
    found: list[nn.Module | None]
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> _Listed:
        """List a model."""
        modules = list(model.modules())
        children: list[Any] = [module._modules for module in modules if module._modules]
        parameters: list[Any] = [module._parameters for module in modules if module._parameters]
        size = sum(parameter is not None for parameter in _values(parameters))
        return cls(modules, children, parameters, _values(children), size)

    def gradients(self) -> bytes:
        """One byte per parameter: whether it requires gradients."""
        return bytes(map(REQUIRES_GRAD, filterfalse(IS_NONE, chain.from_iterable(map(dict.values, self.parameters)))))


def _values(dictionaries: Iterable[dict[str, Any]]) -> list[Any]:
    return [*chain.from_iterable(map(dict.values, dictionaries))]


def key_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], modes: Modes) -> Key:
    """The key of a call."""
    tensors = args if not kwargs and all(map(_is_tensor, args)) else Example(args, kwargs).tensors()
    maps = tuple([(t.shape, t.dtype, t.device, t.requires_grad) for t in tensors])
    cast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    if torch.cuda.is_initialized() and torch.is_autocast_enabled("cuda"):
        cast = torch.get_autocast_dtype("cuda")
    grad = torch.is_grad_enabled()
    return Key(maps, *modes.of(model, grad), grad, cast, torch.get_num_threads())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def nearest(known: Mapping[Key, Choice], key: Key) -> Choice | None:
    """The choice for a call that has not been measured, from known ones; None where it should be measured.

    It is the choice for the same shapes with a larger batch, where there is one. Once `MOST_ALIKE` calls are known
    that differ from it in shapes alone, or in modes alone, it is the nearest one's.
    """
    alike = [(other, choice) for other, choice in known.items() if other.setting == key.setting]
    modes = [pair for pair in alike if pair[0][1:3] == key[1:3] and _signatures(pair[0]) == _signatures(key)]
    for other, choice in modes:
        if all(a[0][1:] == b[0][1:] and a[0][:1] <= b[0][:1] for a, b in zip(key.maps, other.maps, strict=True)):
            return choice
    if len(modes) >= MOST_ALIKE:
        return min(modes, key=lambda pair: abs(_numel(pair[0]) - _numel(key)))[1]
    shapes = [pair for pair in alike if pair[0].maps == key.maps]
    if len(shapes) >= MOST_ALIKE:
        return min(shapes, key=lambda pair: _apart(pair[0], key))[1]
    return None


def _signatures(key: Key) -> list[Any]:
    return [(len(shape), *rest) for shape, *rest in key.maps]


def _numel(key: Key) -> int:
    return sum(shape.numel() for shape, *_ in key.maps)


def _apart(key: Key, other: Key) -> int:
    """The number of modules and parameters whose modes differ."""
    pairs = ((key.training, other.training), (key.gradients, other.gradients))
    return sum(abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False)) for a, b in pairs)


def choices_file(example: Example) -> Path:
    """The file of remembered choices: one per device, versions and source."""
    device = next((t.device for t in example.tensors() if t.device.type == "cuda"), torch.device("cpu"))
    name = autotune.graphics_name(device) if device.type == "cuda" else autotune.processor_name()
    return tuning_cache.file_of("choices", name, torch.__version__, _version.__version__, _source_hash())


@functools.cache
def _source_hash() -> str:
    """A hash of the libraries and of all Python code that affects the choice."""
    python = [path for room in ("ops", "nn", "acceleration") for path in native.HERE.glob(f"{room}/**/*.py")]
    built = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(native.HERE.glob("*.so"))]
    return tuning_cache.hash_of(python) + "".join(built)


def problem(model: nn.Module, example: Example, training: bool, asked: tuple[Any, ...]) -> str:
    """A key for the file of remembered choices: the network's structure, the call and what was asked for."""
    modules, hashes = [], dict[Any, str]()
    for name, module in model.named_modules():
        kind: Any = own_class(type(module))
        if kind not in hashes:
            hashes[kind] = _code_hash(kind)
        modules.append((name, kind.__module__, kind.__qualname__, module.extra_repr(), hashes[kind]))
    weights = [(name, tuple(p.shape), str(p.dtype), str(p.device)) for name, p in model.named_parameters()]
    call = key_of(model, example.args, example.kwargs, Modes())
    return hashlib.sha256(repr((modules, weights, repr(call), training, asked)).encode()).hexdigest()


def _code_hash(kind: Any) -> str:
    """A hash of a module's own methods and of what they call by name, so that changed code is measured again."""
    if _is_torchs(kind):
        return ""
    left = [value for one in kind.__mro__ if not _is_torchs(one) for value in vars(one).values()]
    found: dict[CodeType, None] = {}
    while left:
        function = left.pop()
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if not isinstance(code, CodeType) or code in found or _is_torchs(function):
            continue
        found |= dict.fromkeys(inner := _nested(code))
        names = getattr(function, "__globals__", {})
        left += [names[name] for each in inner for name in each.co_names if name in names]
    parts = [
        (c.co_code, c.co_names, [v for v in c.co_consts if not isinstance(v, CodeType | frozenset)]) for c in found
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _nested(code: CodeType) -> list[CodeType]:
    """A function's code, and that of the functions, comprehensions and classes in it."""
    return [code, *(each for inner in code.co_consts if isinstance(inner, CodeType) for each in _nested(inner))]


def _is_torchs(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").partition(".")[0] in ("torch", "builtins")
