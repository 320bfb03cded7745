"""Shared by the tests of the ops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.dispatch import native

_cpu = native.why_not("cpu")
BACKENDS = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(_cpu is not None, reason=str(_cpu))),
]


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random tensor that requires a gradient."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def count_convolutions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list with an entry for every forward convolution on the CPU: whether statistics were requested."""
    ran: list[bool] = []

    def counted(right: Callable[..., Any], *arguments: Any) -> Any:
        ran.append(arguments[-1])
        return right(*arguments)

    def counted_with_norm(*arguments: Any) -> Any:
        ran.append(True)
        return with_norm(*arguments)

    monkeypatch.setattr(cpu, "prepare", lambda *_: None)  # what is prepared calls C by itself
    with_norm = cpu.fwd_norm
    monkeypatch.setattr(cpu, "fwd_norm", counted_with_norm)
    for module in (cpu, reference):
        monkeypatch.setattr(module, "fwd", functools.partial(counted, module.fwd))
    return ran
