"""The wgmma probe (csrc/cuda_on_cpu/probe_hopper.cu): its inputs in sm_90a's layout, and its expected results."""

from __future__ import annotations

import ctypes
import os
import sys

import torch
from torch import Tensor

SOURCE = "cuda_on_cpu/probe_hopper.cu"
ROUNDS = 3


GAP = 5  # 16-byte units between planes, so that the two offsets of a descriptor differ


class Operand(ctypes.Structure):
    """`fi::ProbeOperand`."""

    _fields_ = (("data", ctypes.c_void_p), *((n, ctypes.c_int) for n in ("bytes", "along_k", "along_mn", "next_k16")))


def core_matrices(rows: Tensor, mn_major: bool) -> tuple[Tensor, Operand]:
    """``[rounds, mn, k]`` as planes of 16-byte units with a gap after each, and the operand without its address.

    K-major: a plane is eight k, with a unit for each row. MN-major: a plane is eight rows, with a unit for each k.
    """
    pieces = rows.mT if mn_major else rows  # a unit is eight adjacent values of the last axis
    units = pieces.reshape(*pieces.shape[:2], -1, 8).transpose(1, 2)
    made = torch.full((*units.shape[:2], units.shape[2] + GAP, 8), torch.nan).to(rows.dtype)
    made[:, :, : units.shape[2]] = units
    plane = made.shape[2] * 16
    along_k, along_mn = (128, plane) if mn_major else (plane, 128)
    return made, Operand(None, made[0].numel() * 2, along_k, along_mn, 256 if mn_major else 2 * plane)


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
    library: ctypes.CDLL, dtype: torch.dtype, device: str, values: str = "random", mn_major: bool = False
) -> tuple[Tensor, Tensor]:
    """What the probe gives as a 64 x 128 matrix, its registers put where the PTX manual says, and the exact product."""
    a, b = (t.to(dtype) for t in operands(values))
    given, kept = [], []
    for factor in (a.expand(ROUNDS, 64, 64), b):
        made, operand = core_matrices(factor, mn_major)
        kept.append(made.to(device))
        operand.data = kept[-1].data_ptr()
        given.append(ctypes.byref(operand))
    registers = torch.full((128, 16, 4), torch.nan, device=device)
    status = library.fi_probe_wgmma(
        int(dtype == torch.float16), int(mn_major), *given, ROUNDS, ctypes.c_void_p(registers.data_ptr()), None
    )
    assert status == 0
    if device != "cpu":
        torch.cuda.synchronize()
    thread, n, i = torch.meshgrid(torch.arange(128), torch.arange(16), torch.arange(4), indexing="ij")
    row = thread // 32 * 16 + thread % 32 // 4 + i // 2 * 8
    column = n * 8 + thread % 4 * 2 + i % 2
    found = torch.full((64, 128), torch.nan)
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


def main() -> None:
    """Multiply numbered bfloat16 factors with the library FI_LIBRARY; ends with 3 if the product is wrong."""
    found, exact = run(ctypes.CDLL(os.environ["FI_LIBRARY"]), torch.bfloat16, "cpu", "numbered", sys.argv[1] == "True")
    raise SystemExit(0 if torch.equal(found.double(), exact) else 3)
