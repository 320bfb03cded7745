"""Everything in this folder needs a CUDA device; without one nothing of it is collected."""

from __future__ import annotations

import torch

if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
