"""The tests in this folder need a CUDA device. Without one they are not collected."""

from __future__ import annotations

import torch

from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.types import Geometry, Source

if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


def why_not(backend: str) -> str | None:
    """Why a backend cannot run a plain 3x3 convolution on the GPU, or None."""
    x, weight = (torch.zeros(shape, device="cuda") for shape in ((1, 16, 8, 8), (16, 16, 3, 3)))
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0), False, 1)
    return registry.why_not("conv_block", backend, [Source(x)], weight, geometry)
