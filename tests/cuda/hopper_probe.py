"""The wgmma probe (csrc/cuda_on_cpu/probe_hopper.cu): its inputs as sm_90a reads them, and what must come out."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

SOURCE = "cuda_on_cpu/probe_hopper.cu"
ROUNDS = 3


def swizzled(columns: Tensor) -> Tensor:
    """``[n, 64]``, k innermost, with the 16-byte pieces of row n moved from i to i ^ n % 8."""
    n = torch.arange(columns.shape[0])[:, None]
    pieces = columns.reshape(-1, 8, 8)
    return pieces[n, torch.arange(8) ^ n % 8].reshape(columns.shape)


def run(library: ctypes.CDLL, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """What the probe gives as a 64 x 128 matrix, its registers put where the PTX manual says, and the exact product."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 64, generator=generator).to(dtype)
    b = torch.randn(ROUNDS, 128, 64, generator=generator).to(dtype)
    packed = torch.stack([swizzled(tile) for tile in b]).to(device)
    there, registers = a.to(device), torch.full((128, 16, 4), torch.nan, device=device)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (there, packed, registers)]
    status = library.fi_probe_wgmma(int(dtype == torch.float16), *pointers[:2], ROUNDS, pointers[2], None)
    assert status == 0
    if device != "cpu":
        torch.cuda.synchronize()
    thread, n, i = torch.meshgrid(torch.arange(128), torch.arange(16), torch.arange(4), indexing="ij")
    row = thread // 32 * 16 + thread % 32 // 4 + i // 2 * 8
    column = n * 8 + thread % 4 * 2 + i % 2
    found = torch.full((64, 128), torch.nan)
    found[row, column] = registers.cpu()
    return found, a.double() @ b.double().sum(0).mT
