"""The fixtures of every test of CUDA kernels."""

from __future__ import annotations

from tests.ops.cuda.conftest import _exact_float32, device, everywhere

__all__ = ["_exact_float32", "device", "everywhere"]
