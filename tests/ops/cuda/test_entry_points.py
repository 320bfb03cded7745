"""The C interface of the CUDA kernels: its calls of CUDA, its streams, and errors that name the op."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.batch_norm import cuda as batch_norm
from fastinpaint.ops.conv_block import cuda as conv_block
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.types import Source
from tests.ops.cuda import small_cases
from tools.verify.emulated import ROOT

# Neither allocates, copies or waits for the device: every launch may be captured in a graph.
CALLED = {"cudaFuncSetAttribute", "cudaGetLastError", "cudaGetErrorString"} | {
    "cudaDriverGetVersion", "cudaRuntimeGetVersion",
}  # fmt: skip
SOURCES = [path for path in (ROOT / "csrc").rglob("*.cu*") if path.parent.name != "cuda_on_cpu"]


def test_nothing_allocates_or_waits() -> None:
    text = "\n".join(path.read_text() for path in SOURCES)
    assert len(SOURCES) > 20
    assert set(re.findall(r"\bcuda[A-Z]\w*(?=\()", text)) == CALLED
    assert not re.findall(r"\b(?:malloc|calloc|new|std::vector|std::string|thread_local)\b(?=[\s<(]+\w)(?!.*//)", text)


def test_every_launch_takes_the_callers_stream() -> None:
    text = "\n".join(path.read_text() for path in SOURCES)
    launches = re.findall(r"FI_LAUNCH\((?!kernel)(.*?)\);", text, re.DOTALL)
    assert len(launches) >= 17
    assert all(re.search(r",\s*stream,", launch) for launch in launches)
    exported = re.findall(r"FI_EXPORT (?:__attribute__\(\(weak\)\) )?int (fi_\w+)\((.*?)\)", text, re.DOTALL)
    assert all(re.search(r"void\* stream$", arguments) for name, arguments in exported if "sizeof" not in name
               and "footprint" not in name and name != "fi_cuda_versions")  # fmt: skip


def convolve(device: str, backward: bool) -> None:
    sources, weight, bias, geometry = (
        small_cases.moved(v, device) for v in small_cases.conv_inputs(small_cases.CONVS["3d"], torch.bfloat16)
    )
    if not backward:
        conv_block.fwd(sources, weight, bias, geometry, True)
        return
    dy = torch.zeros(2, 8, 3, 6, 7, dtype=torch.bfloat16, device=device)
    conv_block.bwd(dy, None, None, None, None, sources, weight, geometry, [False], True, False)


def video(device: str) -> torch.Tensor:
    return torch.ones(1, 3, 2, 4, 4, dtype=torch.bfloat16, device=device)


REFUSED: dict[str, Callable[[str], object]] = {
    "activation: fi_activation_fwd": lambda device: activation.fwd([Source(video(device))]),
    "batch_stats: fi_batch_stats": lambda device: activation.batch_stats(video(device)),
    "conv_block: fi_conv_fwd": lambda device: convolve(device, False),
    "conv_block: fi_conv_bwd": lambda device: convolve(device, True),
}


@pytest.mark.parametrize("named", REFUSED)
def test_a_refusal_names_the_op(named: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(native_cuda.DTYPES, torch.bfloat16, 9)  # as no kernel knows it
    with pytest.raises(RuntimeError, match=rf"^{named} was refused: the kernels know no such dtype\.$"):
        REFUSED[named](device)


def test_batch_norm_names_itself(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = {"fi_batch_norm_bwd": lambda *_: 700, "fi_cuda_error": lambda status: b"an illegal memory access"}
    monkeypatch.setattr(native_cuda, "emulated", type("", (), refusing))
    vector = torch.ones(4, device=device)
    with pytest.raises(RuntimeError, match=r"was refused: CUDA error 700, an illegal memory access\.$"):
        batch_norm.bwd(vector, vector, None, 1e-3, False)
