"""The `library` backend wants a GPU: its own part, run on the CPU around the elementwise functions of the reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastinpaint.ops.activation import reference as elementwise
from fastinpaint.ops.conv_block import library, reference
from fastinpaint.ops.dispatch import registry as backends
from fastinpaint.testing import fuzz


def test_why_not_without_a_gpu() -> None:
    conv = nn.Conv2d(2, 2, 1)
    reason = backends.why_not("conv_block", "library", [], conv.weight, None)
    assert reason == "the library backend needs tensors on a cuda device, got one on cpu."


@pytest.mark.filterwarnings("ignore:var_mean:UserWarning")
def test_random_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "batch_stats", reference.batch_stats, raising=False)
    monkeypatch.setattr(library, "why_not", lambda *args: None)
    monkeypatch.setattr(library, "_elementwise", lambda x: elementwise)
    ran, wrong, _ = fuzz.fuzz(seed=4, count=40, backend="library", dtypes=(torch.float64, torch.float32))
    assert not wrong, "\n".join(wrong)
    assert ran == 40
