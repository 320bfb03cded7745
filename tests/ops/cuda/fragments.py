"""Compares single instructions in `csrc/cuda_on_cpu/probe_fragments.cu` with the PTX manual's tables.

The tables here are written from the manual, independently of the emulation. They map a lane's registers to rows and
columns of its matrix, with group = lane / 4 and t = lane % 4. Values are integers that every format represents, so
results are exact in any order of summation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SOURCE = "cuda_on_cpu/probe_fragments.cu"
LANE = torch.arange(32)[:, None]
GROUP, T = LANE // 4, LANE % 4


class Layout(NamedTuple):
    """Rows and columns, each ``[32, values of a lane]``, of one operand's matrix of that shape."""

    row: Tensor
    column: Tensor
    shape: tuple[int, int]

    def fragments(self, matrix: Tensor) -> Tensor:
        """``[..., rows, columns]`` to ``[..., 32, values]``."""
        return matrix[..., self.row, self.column]

    def matrix(self, fragments: Tensor) -> Tensor:
        """The other way; each element has one place."""
        out = torch.full((*fragments.shape[:-2], *self.shape), torch.nan, dtype=fragments.dtype)
        out[..., self.row, self.column] = fragments
        return out


class Mma(NamedTuple):
    """One ``mma.sync``: its dtype, the probe's name for it and its operands."""

    kind: int
    dtype: torch.dtype
    a: Layout
    b: Layout


I8, I4, I2 = torch.arange(8), torch.arange(4), torch.arange(2)
# m16n8k16, 16-bit A: a0, a1, a4, a5 in row group, the others eight below; a4 ... a7 eight columns on.
A16 = Layout(
    torch.where((I8 < 2) | ((I8 >= 4) & (I8 < 6)), GROUP, GROUP + 8),
    torch.where(I8 < 4, T * 2 + (I8 & 1), T * 2 + (I8 & 1) + 8),
    (16, 16),
)
B16 = Layout(torch.where(I4 < 2, T * 2 + (I4 & 1), T * 2 + (I4 & 1) + 8), GROUP.expand(32, 4), (16, 8))
# m16n8k8, tf32 A: a0, a2 in row group, a1, a3 eight below; a2, a3 four columns on.
A8 = Layout(torch.where(I4 % 2 == 0, GROUP, GROUP + 8), torch.where(I4 < 2, T, T + 4), (16, 8))
B8 = Layout(torch.where(I2 == 0, T, T + 4), GROUP.expand(32, 2), (8, 8))
# The accumulators of both.
C = Layout(torch.where(I4 < 2, GROUP, GROUP + 8), T * 2 + (I4 & 1), (16, 8))
MMAS = {
    "m16n8k16 bf16": Mma(1, torch.bfloat16, A16, B16),
    "m16n8k16 f16": Mma(2, torch.float16, A16, B16),
    "m16n8k8 tf32": Mma(0, torch.float32, A8, B8),
}


def words(fragments: Tensor, dtype: torch.dtype) -> Tensor:
    """A lane's values as its 32-bit registers, the lower half first."""
    return fragments.to(dtype).contiguous().view(torch.int32)


def call(function: Callable[..., int], device: str, *arguments: int | Tensor) -> list[Tensor]:
    """Run a probe; its tensors, as they are afterwards, on the CPU."""
    there = [a.to(device).contiguous() if isinstance(a, Tensor) else a for a in arguments]
    status = function(*(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in there))
    assert status == 0, f"CUDA error {status}"
    if device != "cpu":
        torch.cuda.synchronize()
    return [a.cpu() for a in there if isinstance(a, Tensor)]


def multiply(library: ctypes.CDLL, device: str, mma: Mma, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Raw accumulators ``[trials, 32, 4]`` for matrices ``[trials, rows, columns]``."""
    given = words(mma.a.fragments(a), mma.dtype), words(mma.b.fragments(b), mma.dtype), C.fragments(c)
    return call(library.fi_probe_mma, device, mma.kind, len(a), *given)[2]


def operands(mma: Mma) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers; each element of A alone against numbered B, each of B alone against numbered A."""
    generator = torch.Generator().manual_seed(0)

    def whole(count: int, shape: tuple[int, int]) -> Tensor:
        return torch.randint(-8, 9, (count, *shape), generator=generator).float()

    def alone(shape: tuple[int, int]) -> Tensor:
        return torch.eye(shape[0] * shape[1]).reshape(-1, *shape)

    def numbered(count: int, shape: tuple[int, int]) -> Tensor:
        return torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(1, *shape).expand(count, *shape)

    a, b = mma.a.shape, mma.b.shape
    left, right = alone(a), alone(b)
    lefts = torch.cat([whole(8, a), left, numbered(len(right), a)])
    rights = torch.cat([whole(8, b), numbered(len(left), b), right])
    return lefts, rights, whole(len(lefts), C.shape)


def check_mma(library: ctypes.CDLL, device: str, name: str) -> Tensor:
    """The raw accumulators, once they are seen to be exact and each in its place."""
    mma = MMAS[name]
    a, b, c = operands(mma)
    found = multiply(library, device, mma, a, b, c)
    assert torch.equal(C.matrix(found), a @ b + c), f"{name}: a fragment is not where the manual has it"
    return found


def check_tf32_cuts_off(library: ctypes.CDLL, device: str) -> Tensor:
    """Of a tf32 factor the last 13 bits do not count."""
    mma = MMAS["m16n8k8 tf32"]
    a, b, c = (t[:8] for t in operands(mma))
    more = (a.view(torch.int32) | 0x1FFF).view(torch.float32)
    found = multiply(library, device, mma, torch.where(a == 0, a, more), b, c)
    assert torch.equal(C.matrix(found), a @ b + c), "tf32: bits beyond the tenth of the mantissa count"
    return found


def check_ldmatrix(library: ctypes.CDLL, device: str, transposed: bool) -> Tensor:
    """Four 8x8 matrices of distinct values, rows in order and in another, against the manual's table."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.arange(32), *(torch.randperm(32, generator=generator) for _ in range(3))])
    rows = torch.arange(4 * 32 * 8, dtype=torch.int16).reshape(4, 32, 8)
    found = call(library.fi_probe_ldmatrix, device, int(transposed), 4, rows, order.int(), torch.zeros(4, 32, 4).int())
    matrices = torch.stack([trial[given] for trial, given in zip(rows, order, strict=True)]).reshape(4, 4, 8, 8)
    if transposed:
        matrices = matrices.mT
    # register i of a lane: row group of matrix i, columns 2 t and 2 t + 1
    expected = torch.stack([matrices[:, :, GROUP[:, 0], 2 * T[:, 0] + half] for half in (0, 1)], -1).transpose(1, 2)
    assert torch.equal(found[2].view(torch.int16).reshape(4, 32, 4, 2), expected), "ldmatrix: a value in a wrong lane"
    return found[2]


def check_cp_async(library: ctypes.CDLL, device: str) -> Tensor:
    """Sixteen bytes a lane in each of three groups; zeros where the predicate is false."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(1, 1 << 30, (4, 3, 32, 4), generator=generator, dtype=torch.int32)
    real = torch.randint(0, 2, (4, 3, 32), generator=generator)
    real[0], real[1] = 1, 0
    bits = (real << torch.arange(32)).sum(-1).to(torch.int64).to(torch.int32)
    found = call(library.fi_probe_cp_async, device, 4, given, bits, torch.full_like(given, -2))[2]
    assert torch.equal(found, given * real[..., None].int()), (
        "cp.async: a wrong value, or no zeros where nothing is read"
    )
    return found


def check_rounding(library: ctypes.CDLL, device: str) -> Tensor:
    """To ten bits of mantissa, ties away from zero; computed in float64 from the exponent."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(64, generator=generator) * 10.0 ** torch.randint(-20, 20, (64,), generator=generator)
    ties = (torch.arange(30) * 2 + 1) * 2.0**-11 + 1
    values = torch.cat([some, ties, -ties, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    values = torch.cat([values, values.new_ones(-len(values) % 32)])
    found = call(library.fi_probe_round_to_tf32, device, len(values) // 32, values, torch.zeros(len(values)).int())[1]
    mantissa, exponent = torch.frexp(values.double())
    steps = mantissa.abs() * 2**11
    rounded = torch.ldexp((steps + 0.5).floor() / 2**11, exponent).copysign(values.double()).float()
    expected = torch.where(values.isfinite(), rounded, values)
    assert torch.equal(found.view(torch.float32), expected), "cvt.rna.tf32: not rounded to nearest, ties away from zero"
    return found


CHECKS: dict[str, Callable[[ctypes.CDLL, str], Tensor]] = {
    **{name: (lambda library, device, name=name: check_mma(library, device, name)) for name in MMAS},  # type: ignore[misc]
    "tf32 factors": check_tf32_cuts_off,
    "ldmatrix x4": lambda library, device: check_ldmatrix(library, device, False),
    "ldmatrix x4 trans": lambda library, device: check_ldmatrix(library, device, True),
    "cp.async": check_cp_async,
    "cvt.rna.tf32": check_rounding,
}
