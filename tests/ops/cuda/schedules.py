"""Equal bits in two schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor


def same_bits(run: Callable[[], Sequence[Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, in different schedules where the kernels are emulated."""
    results = []
    for seed in ("2", "7"):
        monkeypatch.setenv("FI_SEED", seed)
        results.append(run())
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
