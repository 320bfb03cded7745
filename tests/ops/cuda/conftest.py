"""The CUDA kernels: on a GPU where there is one, else emulated on the CPU (csrc/cuda_on_cpu)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastinpaint.ops.dispatch import native, native_cuda
from tools.verify import emulated


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable tf32; its own tests enable it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[str]:
    """The device of tensors for the `cuda` backend."""
    if torch.cuda.is_available() and native.why_not("cuda") is None:
        yield "cuda"
        return
    reason = emulated.why_not()
    if reason is not None:
        pytest.skip(reason)
    with emulated.installed():
        yield "cpu"


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the wgmma path wherever it can run."""
    if (reason := native_cuda.why_not_hopper()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv(native_cuda.HOPPER, "all")
