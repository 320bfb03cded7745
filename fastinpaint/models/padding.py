"""Sizes that strides divide: maps padded at their ends, so that any video fits the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """The last axes of x made divisible by `multiples`, by repeating the last frame, row and column."""
    sizes = x.shape[-len(multiples) :]
    missing = [-size % multiple for size, multiple in zip(sizes, multiples, strict=True)]
    return pad_ends(x, missing)


def pad_ends(x: Tensor, missing: Sequence[int]) -> Tensor:
    """x with its last axes longer by `missing`, the last entries repeated."""
    if not any(missing):
        return x
    if x.dim() == 5:  # torch repeats the edges of a 5-D map along three axes or not at all
        missing = [*[0] * (3 - len(missing)), *missing]
    return F.pad(x, [end for n in reversed(missing) for end in (0, n)], mode="replicate")
