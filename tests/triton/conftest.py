"""Triton kernels, interpreted under the guard: ``TRITON_INTERPRET=1 pytest tests/triton``, in a process of its own.

Triton decides at import whether kernels are interpreted, so in any other process nothing of this folder is collected.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    from fastinpaint.testing import interpreter

    interpreter.install()
else:
    collect_ignore_glob = ["*"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The widest tiles up to 64 x 64, whatever the model of a GPU prefers: the interpreter's time is its steps'."""
    from fastinpaint.ops.conv_block import triton_launch as launch

    def widest(tiles, work):
        return max(launch.candidates(tiles, work), key=lambda t: (min(t.m, 64) * min(t.n, 64), t.k, -t.m * t.n))

    monkeypatch.setattr(launch, "best", widest)
