"""Makes maps plain that outlive a model's call: in attributes of its modules, and in objects that it returns.

They would be computed when they are first read, from parameters that an optimiser may have changed since.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from torch import Tensor, nn

from fastinpaint.nn.deferred import AS_TENSORS, plain

KEEPERS = "_fastinpaint_keepers"  # attribute of a swapped model: its `Keepers`
TORCHS = frozenset(vars(nn.Module()))  # the attributes of every module
CONTAINERS = (list, tuple, dict)
MOST = 256  # items; a longer container, as of class names, is not looked through in every call


class Keepers:
    """The modules of a model whose class is no one of torch's: their ``forward`` may keep maps as attributes."""

    def __init__(self) -> None:
        self._modules: list[weakref.ref[nn.Module]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Keepers, ()  # a copy lists the modules of its own model

    def settle(self, model: nn.Module) -> None:
        """Make plain what they keep."""
        if self._modules is None:
            own = ("torch.nn.", "fastinpaint.nn.")
            self._modules = [weakref.ref(m) for m in model.modules() if not type(m).__module__.startswith(own)]
        for reference in self._modules:
            if (module := reference()) is not None:
                _settle(vars(module))
                if type(module._buffers) is dict and module._buffers:  # a script has none of its own
                    _settle(module._buffers)


def settle_objects(result: Any) -> None:
    """Make plain what objects of users' classes hold, which a model returns alone or in a list, tuple or dict."""
    for item in _items(result) if isinstance(result, CONTAINERS) else (result,):
        if not isinstance(item, (Tensor, nn.Module, type, *CONTAINERS)) and hasattr(item, "__dict__"):
            _settle(vars(item))


def _items(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _settle(own: dict[str, Any]) -> None:
    """Make attributes plain, and items of their lists, tuples and dicts.

    A map that cannot be computed any more stays, and says so when it is read.
    """
    kinds = {*AS_TENSORS.values()}
    for name in own.keys() - TORCHS:
        value = own[name]
        kind = type(value)
        if kind in CONTAINERS:
            if len(value) > MOST or kinds.isdisjoint(map(type, _items(value))):
                continue
        elif kind not in kinds:
            continue
        with contextlib.suppress(RuntimeError):
            found = plain(value)
            if kind is list:
                value[:] = found
            elif kind is dict:
                value.update(found)
            else:
                own[name] = found
