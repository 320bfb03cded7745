"""What one multiprocessor of a GPU does in a cycle, as data with its public sources; nothing here was measured by us.

Sources:
    [guide]   NVIDIA, CUDA C++ Programming Guide, "Arithmetic Instructions": results a cycle and multiprocessor.
    [hopper]  NVIDIA H100 Tensor Core GPU Architecture (white paper): 989.4 TFLOP/s of dense bf16 on 132
              multiprocessors at 1.83 GHz are 4096 FLOP a cycle and multiprocessor.
    [ampere]  NVIDIA A100 Tensor Core GPU Architecture (white paper): 312 TFLOP/s of dense bf16 on 108 multiprocessors
              at 1.41 GHz are 2048 FLOP a cycle; L2 reads 5120 bytes a cycle.
    [ada]     NVIDIA L40S data sheet: 362 TFLOP/s of dense bf16 on 142 multiprocessors at 2.52 GHz are 1024 FLOP a
              cycle. GeForce cards of the same chip accumulate float32 at half that rate.
    [mma]     Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking",
              arXiv:2402.13499: mma.sync reaches 62.9 % of wgmma's peak on average.
    [assumed] An H200's L2 reads 5120 bytes a cycle as an A100's, over 132 multiprocessors. A figure of 24 bytes for
              each, 5.5 TB/s in all, which one finds too, cannot be: tiles of 128 x 256 without multicast would then
              be held to half the peak, and Triton's product of matrices is known to be faster. 16 of an L40S are
              5.7 TB/s.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SCHEDULERS = 4  # of a multiprocessor; each issues one warp instruction a cycle [guide]
SHARED_BYTES = 128  # of shared memory a cycle and multiprocessor [guide]
LANES = 32


class Chip(NamedTuple):
    """One architecture.

    Attributes:
        flop: dense 16-bit FLOP a cycle and multiprocessor at the tensor cores' peak; tf32 is half.
        mma_share: what mma.sync reaches of it.
        fma_cycles: of a scheduler for one warp instruction of float32.
        l2_bytes: a cycle and multiprocessor.
        multiprocessors, hertz: of the board that estimates are for.
        bandwidth: bytes a second of its memory, as a copy reaches it.
        registers, shared, warps: that a multiprocessor has, for occupancy.
    """

    board: str
    flop: int
    mma_share: float
    fma_cycles: float
    l2_bytes: float
    multiprocessors: int
    hertz: float
    bandwidth: float
    registers: int
    shared: int
    warps: int


CHIPS = {
    "sm_90": Chip("H200", 4096, 0.629, 1, 38.8, 132, 1.755e9, 4.3e12, 65536, 228 << 10, 64),  # [hopper] [mma] [assumed]
    "sm_80": Chip("A100", 2048, 1.0, 2, 47, 108, 1.41e9, 1.7e12, 65536, 164 << 10, 64),  # [ampere]
    "sm_89": Chip("L40S", 1024, 1.0, 1, 16, 142, 2.52e9, 0.78e12, 65536, 100 << 10, 48),  # [ada] [assumed]
}

# Cycles of a scheduler that one warp instruction holds its unit for, by the start of its name; the longest start wins.
# Integer and logical operations, comparisons and packing conversions give 64 results a cycle and multiprocessor, other
# conversions and special functions 16 [guide]. What is not listed takes an issue slot only.
ALU, FMA, IMAD, SPECIAL = "integer", "float", "multiply", "special"
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("IADD", "VIADD", "LOP3", "PLOP3", "LEA", "SHF", "SEL", "FSEL", "PRMT"), (ALU, 2)),
    **dict.fromkeys(("ISETP", "FSETP", "IMNMX", "VIMNMX", "FMNMX", "HMNMX2", "HSETP2", "IABS", "SGXT"), (ALU, 2)),
    **dict.fromkeys(("F2FP", "I2FP", "VIADDMNMX", "BMSK", "P2R", "R2P"), (ALU, 2)),
    **dict.fromkeys(("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"), (FMA, 0)),  # the chip's fma_cycles
    "IMAD": (IMAD, 2),
    **dict.fromkeys(("MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO", "BREV"), (SPECIAL, 8)),
}

# Bytes of shared memory that all lanes of one warp instruction move, by its name.
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def unit(name: str, chip: Chip) -> tuple[str, float] | None:
    """The unit that an instruction holds and the cycles that it does, or None where it takes an issue slot only."""
    base = name.partition(".")[0]
    start = next((base[:n] for n in range(len(base), 1, -1) if base[:n] in UNITS), None)
    if start is None:
        return None
    which, cycles = UNITS[start]
    return which, cycles or chip.fma_cycles


def access_bytes(name: str) -> int:
    """Bytes of all lanes of a load or store, without bank conflicts."""
    parts = name.split(".")
    width = next((_WIDTHS[part] for part in parts if part in _WIDTHS), 4)
    return LANES * width


def shared_bytes(name: str) -> float:
    """Bytes that a warp's instruction reads or writes in shared memory; wgmma's are `wgmma_bytes`."""
    base = name.partition(".")[0]
    if base == "LDSM" or base == "STSM":
        return 128 * int(name.rsplit(".", 1)[1]) if name.rsplit(".", 1)[1].isdigit() else 128
    if base in ("LDS", "STS", "LDGSTS"):
        return access_bytes(name)
    return SHARED_BYTES if base == "SHFL" else 0  # 32 results a cycle [guide]


def global_bytes(name: str) -> float:
    """Bytes that a warp's instruction moves between the multiprocessor and L2, as if nothing stood in L1."""
    return access_bytes(name) if name.partition(".")[0] in ("LDG", "STG", "LDGSTS", "RED", "ATOMG") else 0


_HGMMA = re.compile(r"HGMMA\.64x(\d+)x(\d+)\.")
_HMMA = re.compile(r"HMMA\.(16816|1688|1684)\.F(?:32|16)(\.TF32)?")


def products(name: str) -> tuple[int, float]:
    """Multiply-adds of a tensor instruction of one warp (a quarter of a warpgroup's), and their cost in 16-bit ones."""
    if match := _HGMMA.match(name):
        amount = 16 * int(match[1]) * int(match[2])
        return amount, amount * (2 if ".TF32" in name else 1)
    if match := _HMMA.match(name):
        amount = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "1684": 16 * 8 * 4}[match[1]]
        return amount, amount * (2 if match[2] else 1)
    return 0, 0.0


def wgmma_bytes(name: str, a_in_registers: bool) -> float:
    """Bytes of shared memory that a warp's share of a wgmma reads: B is read once for the four warps, A by rows."""
    match = _HGMMA.match(name)
    if match is None:
        return 0
    columns, depth = int(match[1]), int(match[2])
    item = 4 if ".TF32" in name else 2
    return (columns * depth / 4 + (0 if a_in_registers else 16 * depth)) * item
