"""Long videos: windows in time that overlap, and how they are blended there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def sliding(items: Iterable[T], length: int, stride: int) -> Iterator[tuple[list[T], int]]:
    """Windows of `length` items, each `stride` after the one before; at most `length + stride` items are held.

    The last window is moved back so that it is full too, if the sequence is that long.

    Yields:
        (window, settled): the next window does not contain the first `settled` items of this one.
    """
    source = iter(items)
    window = list(islice(source, length))
    while window:
        fresh = list(islice(source, stride))
        yield window, len(fresh) or len(window)
        if not fresh:
            return
        window = (window + fresh)[-length:]


def blend(old: np.ndarray, new: np.ndarray, mask: np.ndarray, share: float) -> np.ndarray:
    """`(1 - share) * old + share * new` inside the mask, `new` outside, where both equal the source.

    Args:
        old, new: uint8 [H, W, 3], two completions of one frame.
        mask: bool [H, W].
        share: weight of `new`, in [0, 1].
    """
    out = new.copy()
    out[mask] = np.rint((1 - share) * old[mask].astype(np.float32) + share * new[mask]).astype(np.uint8)
    return out
