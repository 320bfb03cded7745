"""Python's operators of a `Deferred`, which take its plain tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastinpaint.nn.deferred import Deferred, plain


def _through(name: str) -> Callable[..., Any]:
    def operate(self: Deferred, *args: Any) -> Any:
        return getattr(self.tensor(), name)(*plain(args))

    operate.__name__ = name
    return operate


def _in_place_through(name: str) -> Callable[..., Any]:
    def operate(self: Deferred, *args: Any) -> Any:
        getattr(self.materialize_(), name)(*plain(args))
        return self

    operate.__name__ = name
    return operate


PLAIN_OPERATORS = """
    sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul neg pos abs invert and or xor
    eq ne lt le gt ge getitem iter bool float int contains array
""".split()  # noqa: SIM905 - a list of 34 strings reads worse
IN_PLACE_OPERATORS = ("isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
for _name in PLAIN_OPERATORS:
    setattr(Deferred, f"__{_name}__", _through(f"__{_name}__"))
for _name in IN_PLACE_OPERATORS:
    setattr(Deferred, f"__{_name}__", _in_place_through(f"__{_name}__"))
Deferred.__hash__ = object.__hash__  # type: ignore[method-assign]
