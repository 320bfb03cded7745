"""The wgmma probe (csrc/cuda_on_cpu/probe_hopper.cu): its inputs in sm_90a's layout, and its expected results."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

SOURCE = "cuda_on_cpu/probe_hopper.cu"
ROUNDS = 3


def swizzled(columns: Tensor) -> Tensor:
    """``[n, 64]``, k innermost (transposed: ``[k, 64]``), with the 16-byte units of row n moved from i to i ^ n % 8."""
    n = torch.arange(columns.shape[0])[:, None]
    pieces = columns.reshape(-1, 8, 8)
    return pieces[n, torch.arange(8) ^ n % 8].reshape(columns.shape)


def operands(values: str) -> tuple[Tensor, Tensor]:
    """A ``[64, 64]`` and each round's B ``[ROUNDS, 128, 64]``, k innermost, as float32.

    "random": of the normal distribution. "whole": small whole numbers, whose sums are exact in any order. "numbered": A
    is a permutation, and the rounds of B sum to a number of its own for each element, in parts that bfloat16 holds.
    """
    generator = torch.Generator().manual_seed(0)
    if values == "random":
        return torch.randn(64, 64, generator=generator), torch.randn(ROUNDS, 128, 64, generator=generator)
    if values == "whole":
        a, b = (torch.randint(-3, 4, shape, generator=generator) for shape in ((64, 64), (ROUNDS, 128, 64)))
        return a.float(), b.float()
    number = torch.arange(128 * 64).reshape(128, 64)
    return torch.eye(64)[torch.arange(64) * 37 % 64], torch.stack(
        [number % 128, number // 128 * 128, torch.zeros_like(number)]
    ).float()


def run(
    library: ctypes.CDLL, dtype: torch.dtype, device: str, values: str = "random", transposed_b: bool = False
) -> tuple[Tensor, Tensor]:
    """What the probe gives as a 64 x 128 matrix, its registers put where the PTX manual says, and the exact product.

    transposed_b: the probe of B with n contiguous, which has the first 64 columns.
    """
    a, b = (t.to(dtype) for t in operands(values))
    columns, function = (64, library.fi_probe_transposed_b) if transposed_b else (128, library.fi_probe_wgmma)
    b = b[:, :columns]
    packed = torch.stack([swizzled(tile.mT.contiguous() if transposed_b else tile) for tile in b]).to(device)
    there, registers = a.to(device), torch.full((128, columns // 8, 4), torch.nan, device=device)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (there, packed, registers)]
    status = function(int(dtype == torch.float16), *pointers[:2], ROUNDS, pointers[2], None)
    assert status == 0
    if device != "cpu":
        torch.cuda.synchronize()
    thread, n, i = torch.meshgrid(torch.arange(128), torch.arange(columns // 8), torch.arange(4), indexing="ij")
    row = thread // 32 * 16 + thread % 32 // 4 + i // 2 * 8
    column = n * 8 + thread % 4 * 2 + i % 2
    found = torch.full((64, columns), torch.nan)
    found[row, column] = registers.cpu()
    return found, a.double() @ b.double().sum(0).mT


def run_bulk(library: ctypes.CDLL, device: str) -> tuple[Tensor, Tensor]:
    """The results of two bulk copies per phase, and their inputs."""
    given = torch.randint(0, 256, (5, 2 * 1040), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    there, found = given.to(device), torch.zeros_like(given, device=device)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (there, found)]
    status = library.fi_probe_bulk(pointers[0], len(given), given.shape[1] // 2, pointers[1])
    assert status == 0
    if device != "cpu":
        torch.cuda.synchronize()
    return found.cpu(), given
