"""What the tests of the ops share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinpaint import _native

_cpu = _native.why_not("cpu")
BACKENDS = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(_cpu is not None, reason=str(_cpu))),
]


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random tensor that wants a gradient."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)
