"""The environment variables that the package reads, and their allowed values."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastinpaint.errors import UserError, shown

VARIABLES: dict[str, tuple[str, ...]] = {
    "FASTINPAINT_BACKEND": ("auto", "reference", "cpu", "cuda", "triton", "library"),
    "FASTINPAINT_TUNE": ("0", "1"),
    "FASTINPAINT_CPU_CONV": ("own", "onednn"),
    "FASTINPAINT_CPU_ISA": ("scalar", "avx2", "avx512", "avx512bf16", "amx"),
    "FASTINPAINT_HOPPER": ("0", "1", "all"),
}
"""Variables with a fixed set of values. FASTINPAINT_CACHE, a folder, is not among them."""


def watch(*names: str) -> Callable[[], tuple[Any, ...]]:
    """A function that returns the variables' values as the system stores them. It is cheap enough to call in each pass.

    ``os.environ.get`` encodes and decodes on each call, which shows in the time of a small layer.
    """
    values = getattr(os.environ, "_data", None)  # CPython's, by encoded name
    if values is None:
        return lambda: tuple(map(os.environ.get, names))
    keys = [os.environ.encodekey(name) for name in names]
    return lambda: tuple(map(values.get, keys))


def check() -> None:
    """Reject unknown values. An empty variable counts as unset.

    Raises:
        UserError: names the variable and its allowed values.
    """
    for name, known in VARIABLES.items():
        value = os.environ.get(name)
        if value and value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {shown(value)}.")


def whole_number(name: str, default: int) -> int:
    """A count set by another program, such as torchrun's RANK.

    Raises:
        UserError: the value is not a whole number of at least 0.
    """
    value = os.environ.get(name) or str(default)
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise UserError(f"{name} must be a whole number of at least 0, got {shown(value)}.")
    return int(value)
