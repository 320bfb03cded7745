"""The CUDA backend's errors about drivers and refused launches."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch

from fastinpaint.ops.dispatch import native_cuda


class Library:
    """A built library whose runtime and driver are of these versions."""

    def __init__(self, driver: int, runtime: int, status: int = 0) -> None:
        self.driver, self.runtime, self.status = driver, runtime, status

    def fi_cuda_versions(self, driver: object, runtime: object) -> int:
        driver._obj.value, runtime._obj.value = self.driver, self.runtime  # type: ignore[attr-defined]
        return self.status

    def fi_cuda_error(self, code: int) -> bytes:
        return {1: b"invalid argument", 35: b"CUDA driver version is insufficient for CUDA runtime version"}[code]

    def fi_launch(self, stream: ctypes.c_void_p | None) -> int:
        return 1


@pytest.mark.parametrize(("driver", "runtime"), [(13000, 13000), (13000, 13020), (13010, 12080)])
def test_a_driver_runs_runtimes_of_its_major_version_and_older(driver: int, runtime: int) -> None:
    assert native_cuda.why_not_driver(Library(driver, runtime)) is None


def test_an_older_driver_is_named_before_the_first_launch() -> None:
    reason = native_cuda.why_not_driver(Library(12040, 13000))
    assert reason == (
        "the cuda kernels are built with CUDA 13.0, and the driver here runs at most 12.4; update the driver."
    )
    reason = native_cuda.why_not_driver(Library(0, 13000, status=35))
    assert str(reason).startswith("the CUDA driver does not answer: CUDA error 35, CUDA driver version is insufficient")


def test_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cuda, "library", lambda: Library(12040, 13000))
    monkeypatch.setattr(native_cuda, "native", SimpleNamespace(why_not=lambda name: None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "the driver here runs at most 12.4" in str(native_cuda.why_not_on())


def test_a_refused_launch_is_told_in_the_runtimes_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cuda, "emulated", Library(13000, 13000))
    with pytest.raises(RuntimeError, match=r"op: fi_launch was refused: CUDA error 1, invalid argument\."):
        native_cuda.call("op", "fi_launch", torch.zeros(1))
