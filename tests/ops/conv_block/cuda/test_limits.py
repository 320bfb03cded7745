"""The CUDA kernels stay within a chip's shared memory, and waits of a debug build trap. Needs no GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastinpaint.ops.conv_block.cuda.abi import describe
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.types import Geometry, Source
from tests.ops.conv_block.cuda import hopper_probe
from tools.inspect import counting
from tools.nvcc import find_nvcc
from tools.verify import emulated

CSRC = Path(__file__).parents[4] / "csrc"
NAMES = {torch.float32: "float32", torch.bfloat16: "bf16"}


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    if (reason := emulated.why_not()) is not None:
        pytest.skip(reason)
    with emulated.installed():
        yield


def shared(channels: int, dilation: int, dtype: int, limit: int) -> dict[str, int]:
    """Bytes of shared memory of each pass of a 3 x 3 convolution on 32 frames of 32 x 32."""
    geometry = Geometry((1, 1), (dilation,) * 2, (dilation,) * 2, (0, 0))
    map_type = torch.float32 if dtype in (0, native_cuda.TF32) else torch.bfloat16
    form = {"dtype": map_type, "device": "meta", "memory_format": torch.channels_last}
    x = torch.empty(32, channels, 32, 32, **form)
    weight = torch.empty(channels, channels, 3, 3, **form)
    mean, scale, shift = (torch.empty(channels, device="meta") for _ in range(3))
    conv = describe([Source(x, mean, scale, shift, True)], weight, geometry, x.shape)
    conv.dtype, conv.shared_limit, conv.hopper = dtype, limit, 0
    conv.gradient = native_cuda.CSource(channels=channels, scale_factor=1, shift_factor=1, addend=16)
    conv.source_gradient[0].dx = 16
    library, found, passes = native_cuda.library(), counting.Footprint(), {}
    for name, backward in (("forward", 0), ("dgrad", 1)):
        assert library.fi_conv_footprint(ctypes.byref(conv), backward, ctypes.byref(found)) == 0
        passes[name] = found.shared_bytes
    assert library.fi_conv_wgrad_footprint(ctypes.byref(conv), ctypes.byref(found)) == 0
    return {**passes, "wgrad": found.shared_bytes}


@pytest.mark.parametrize("limit", [99, 163, 227])  # KiB: Ada and others, A100, Hopper
@pytest.mark.parametrize("dtype", [0, 1, native_cuda.TF32])
@pytest.mark.parametrize("dilation", [1, 2, 4, 8, 16])
def test_every_block_fits_the_chip(limit: int, dtype: int, dilation: int) -> None:
    for channels in (64, 256):
        over = {name: n for name, n in shared(channels, dilation, dtype, limit << 10).items() if n > limit << 10}
        assert not over, f"{channels} channels"


def compiled(folder: Path, *flags: str) -> str:
    """PTX of a small kernel that waits for copy engines."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc.")
    made = folder / "probe.ptx"
    command = [nvcc, "-std=c++17", "--expt-relaxed-constexpr", "-arch=compute_90a", f"-I{CSRC}", "-ptx"]
    subprocess.run(
        [*command, str(CSRC / hopper_probe.SOURCE), "-o", str(made), *flags], capture_output=True, check=True
    )
    return made.read_text()


def test_a_wait_traps_in_a_debug_build(tmp_path: Path) -> None:
    """A lost arrival then stops the kernel with an error instead of hanging the machine. All waits are one function."""
    waits = [path.name for path in CSRC.rglob("*.cu*") if "mbarrier.try_wait" in path.read_text()]
    assert waits == ["cuda_ptx_sm90.cuh"]
    assert "trap;" in compiled(tmp_path, "-DFI_TRAP_WAITS")
    assert "trap;" not in compiled(tmp_path)
