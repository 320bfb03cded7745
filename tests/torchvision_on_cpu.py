"""Imports torchvision beside a CPU build of torch: its wheel was built beside CUDA and lacks two operators there."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

_LIBRARY: list[torch.library.Library] = []  # a library's operators go with it


def import_torchvision() -> ModuleType:
    """torchvision; the test is skipped where it is not installed."""
    if not _LIBRARY and torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.append(library)
    return pytest.importorskip("torchvision")
