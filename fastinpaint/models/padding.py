"""Padding at the end of each axis to a multiple of the strides, so that any video size fits the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """Pad the last axes of x to `multiples` by repeating the last frame, row and column."""
    sizes = x.shape[-len(multiples) :]
    missing = [-size % multiple for size, multiple in zip(sizes, multiples, strict=True)]
    return pad_ends(x, missing)


def pad_ends(x: Tensor, missing: Sequence[int]) -> Tensor:
    """Extend the last axes of x by `missing` copies of their last entries."""
    if not any(missing):
        return x
    if x.dim() == 5:  # torch replicates a 5-D map along three axes only
        missing = [*[0] * (3 - len(missing)), *missing]
    return F.pad(x, [end for n in reversed(missing) for end in (0, n)], mode="replicate")
