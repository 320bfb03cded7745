"""Triton kernels, interpreted under the guard: ``TRITON_INTERPRET=1 pytest tests/triton``, in a process of its own.

Triton decides at import whether kernels are interpreted, so in any other process nothing of this folder is collected.
"""

from __future__ import annotations

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    from fastinpaint.testing import interpreter

    interpreter.install()
else:
    collect_ignore_glob = ["*"]
