"""The environment variables that the package reads, with what each may hold."""

from __future__ import annotations

import os

from fastinpaint.errors import UserError, shown

VARIABLES: dict[str, tuple[str, ...]] = {
    "FASTINPAINT_BACKEND": ("auto", "reference", "cpu", "cuda", "triton", "library"),
    "FASTINPAINT_TUNE": ("0", "1"),
    "FASTINPAINT_CPU_CONV": ("own", "onednn"),
    "FASTINPAINT_CPU_ISA": ("scalar", "avx2", "avx512"),
    "FASTINPAINT_HOPPER": ("0", "1", "all"),
}
"""Those with a fixed set of values. FASTINPAINT_CACHE names a folder."""


def check() -> None:
    """Refuse a value that no part of the package knows; an empty one counts as none.

    Raises:
        UserError: names the variable and its values.
    """
    for name, known in VARIABLES.items():
        value = os.environ.get(name)
        if value and value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {shown(value)}.")


def whole_number(name: str, default: int) -> int:
    """A count that another program sets, as torchrun sets RANK.

    Raises:
        UserError: it is no whole number of at least 0.
    """
    value = os.environ.get(name) or str(default)
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise UserError(f"{name} must be a whole number of at least 0, got {shown(value)}.")
    return int(value)
