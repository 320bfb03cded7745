"""The fuzzer of `conv_block`, with the Triton backend."""

from __future__ import annotations

import torch

from fastinpaint.testing.fuzz import fuzz


def test_random_cases(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ran, wrong, refused = fuzz(
        seed=5, count=16, backend="triton", dtypes=(torch.float32, torch.bfloat16, torch.float16)
    )
    assert not wrong, "\n".join(wrong)
    assert ran >= 10
    assert all("take groups of one channel or of a multiple" in reason for reason in refused)
