"""The memory layout of maps: channels-last, ``[N, C, H, W]`` and ``[N, C, T, H, W]`` with C innermost and no gaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes


def memory_format(axes: int) -> torch.memory_format:
    """Channels-last for maps with that number of axes, 4 or 5."""
    return torch.channels_last if axes == 4 else torch.channels_last_3d


def dense(x: Tensor) -> Tensor:
    """x in channels-last: x itself, or a copy where it is laid out otherwise."""
    return x.contiguous(memory_format=FORMATS[x.dim()])


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised map of that shape in channels-last, of like's dtype and on its device."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=FORMATS[len(shape)])
