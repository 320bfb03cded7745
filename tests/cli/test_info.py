"""``fastinpaint info`` says what runs and why the rest does not."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.cli import info, main
from fastinpaint.ops.dispatch import native, native_cuda


def test_says_what_runs_and_why_the_rest_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__}" in text
    assert "reference: yes" in text
    if not torch.cuda.is_available():
        assert "library: no" in text
        assert "the library backend needs tensors on a cuda device, got one on cpu." in text


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "HERE", native.HERE / "nowhere")
    reason = "the cpu kernels are not built; install a C++ compiler (g++ or clang++) and run `pip install -e .` again."
    nvcc = "nvcc (of the CUDA toolkit, or by `pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl`)"
    cuda_reason = f"the cuda kernels are not built; install {nvcc} and run `pip install -e .` again."
    assert list(info.built()) == [f"cpu kernels: {reason}", f"cuda kernels: {cuda_reason}"]


def test_the_wgmma_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native_cuda.HOPPER, raising=False)
    off = "the cuda backend's wgmma path for sm_90a is off; it has not run on a GPU yet, 1 turns it on"
    assert f"FASTINPAINT_HOPPER=0: {off}" in info.runnable()
    monkeypatch.setenv(native_cuda.HOPPER, "1")
    reason = native_cuda.why_not_hopper() or "wide convolutions of the cuda backend take wgmma"
    assert f"FASTINPAINT_HOPPER=1: {reason}" in info.runnable()


def test_the_cudnn_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    assert "cuDNN 91002 refuses contiguous bfloat16 conv3d" in next(info.traps())
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91500)
    assert list(info.traps()) == ["none for these versions"]
