"""Triton kernels: interpreted under the guard, or for real where there is a GPU.

``TRITON_INTERPRET=1 pytest tests/triton`` interprets, in a process of its own: triton decides at import. In any other
process the same tests launch on the GPU; without one nothing of this folder is collected.
"""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    from fastinpaint.testing import interpreter

    interpreter.install()
else:
    collect_ignore_glob = ["interpreter/*"] if torch.cuda.is_available() else ["*"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Interpreted, the widest tiles up to 64 x 64, whatever the model of a GPU prefers: the time is in the steps."""
    from fastinpaint.ops.conv_block.triton import tiles as launch
    from fastinpaint.ops.dispatch import triton_support

    def widest(tiles, work):
        return max(launch.candidates(tiles, work), key=lambda t: (min(t.m, 64) * min(t.n, 64), t.k, -t.m * t.n))

    if triton_support.INTERPRETING:
        monkeypatch.setattr(launch, "best", widest)
