"""Numbers with a range, for the command line, option files and Python callers alike."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from typing import Any

from fastinpaint.errors import UserError, shown

WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MOST_DIGITS = 60
EXACT = 2**53  # whole numbers below it are exact as a float


@dataclass(frozen=True)
class Number:
    """A kind of number and its range. As ``type=`` of an option it converts the text.

    Attributes:
        kind: int or float.
        least, most: the range, both included.
        above: ``least`` itself is not allowed.
    """

    kind: type[int] | type[float]
    least: float
    most: float
    above: bool = False

    def __call__(self, text: str) -> Any:
        value = self._converted(text)
        if value is None:
            raise argparse.ArgumentTypeError(f"must be {self}, got {shown(text)}")
        return value

    def checked(self, name: str, value: Any) -> Any:
        """The value as this kind of number; text is read as the command line reads it.

        Raises:
            UserError: it is not such a number, or out of range. The sentence gives ``name`` and the range.
        """
        found = self._converted(value)
        if found is None:
            raise UserError(f"{name} must be {self}, got {shown(value)}.")
        return found

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        if self.above:
            return f"{noun} above {_short(self.least)} and up to {_short(self.most)}"
        return f"{noun} from {_short(self.least)} to {_short(self.most)}"

    def _converted(self, value: Any) -> Any:
        if isinstance(value, str):
            value = _read(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if not (self.least < value if self.above else self.least <= value) or not value <= self.most:  # NaN fails both
            return None
        if self.kind is int and value != int(value):
            return None
        return self.kind(value)


def whole(least: int, most: int) -> Number:
    """A whole number in a range."""
    return Number(int, least, most)


def real(least: float, most: float, above: bool = False) -> Number:
    """A finite number in a range, or, with ``above``, greater than ``least``."""
    return Number(float, least, most, above)


def _read(text: str) -> int | float | None:
    if len(text) > MOST_DIGITS:
        return None
    if WHOLE.fullmatch(text):
        return int(text)
    if not REAL.fullmatch(text):
        return None
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < EXACT else number


def _short(bound: float) -> str:
    """10000 as 10000, but 1000000000 as 1e9."""
    if bound == int(bound) and abs(bound) >= 10**6 and math.log10(abs(bound)).is_integer():
        return f"1e{round(math.log10(abs(bound)))}"
    return str(int(bound)) if bound == int(bound) else str(bound)


FRAMES = whole(1, 4096)
"""Frames of a sample, or of one network input."""

SIDE = whole(1, 8192)
"""Side length in pixels."""

BATCH = whole(1, 65_536)
SEED = whole(0, 2**63 - 1)
COUNT, POSITIVE_COUNT = whole(0, 10**9), whole(1, 10**9)
WIDTH = real(0, 64, above=True)
"""Factor on a network's channel counts."""
