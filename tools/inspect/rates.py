"""Throughput of one GPU multiprocessor per cycle, from public sources. Nothing here was measured by this project.

Sources:
    [guide]   NVIDIA, CUDA C++ Programming Guide, "Arithmetic Instructions": results per cycle and multiprocessor.
    [hopper]  NVIDIA H100 Tensor Core GPU Architecture (white paper): 989.4 TFLOP/s of dense bf16 on 132
              multiprocessors at 1.83 GHz are 4096 FLOP per cycle and multiprocessor.
    [ampere]  NVIDIA A100 Tensor Core GPU Architecture (white paper): 312 TFLOP/s of dense bf16 on 108 multiprocessors
              at 1.41 GHz are 2048 FLOP per cycle; L2 reads 5120 bytes per cycle.
    [ada]     NVIDIA L40S data sheet: 362 TFLOP/s of dense bf16 on 142 multiprocessors at 2.52 GHz are 1024 FLOP per
              cycle. GeForce cards of the same chip accumulate float32 at half that rate.
    [mma]     Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking",
              arXiv:2402.13499: mma.sync reaches 62.9 % of wgmma's peak on average.
    [assumed] An H200's L2 reads 5120 bytes per cycle, like an A100's, over 132 multiprocessors. Another published
              figure, 24 bytes per multiprocessor (5.5 TB/s in all), cannot be right: it would limit tiles of 128 x 256
              without multicast to half the peak, and Triton's matrix product is faster. An L40S's 16 are 5.7 TB/s.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SCHEDULERS = 4  # per multiprocessor; each issues one warp instruction per cycle [guide]
SHARED_BYTES = 128  # of shared memory per cycle and multiprocessor [guide]
LANES = 32


class Chip(NamedTuple):
    """One architecture.

    Attributes:
        flop: dense 16-bit FLOP per cycle and multiprocessor at the tensor cores' peak; tf32 has half.
        mma_share: the share of it that mma.sync reaches.
        fma_cycles: scheduler cycles per float32 warp instruction.
        l2_bytes: per cycle and multiprocessor.
        multiprocessors, hertz: of the board in the estimates.
        bandwidth: bytes per second of its memory, as reached by a copy.
        registers, shared, warps: per multiprocessor, for occupancy.
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

# Scheduler cycles that a warp instruction occupies its unit, by prefix of its name; the longest prefix wins. Integer
# and logical operations, comparisons and packing conversions give 64 results per cycle and multiprocessor, other
# conversions and special functions 16 [guide]. Instructions that are not listed take only an issue slot.
ALU, FMA, IMAD, SPECIAL = "integer", "float", "multiply", "special"
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("IADD", "VIADD", "LOP3", "PLOP3", "LEA", "SHF", "SEL", "FSEL", "PRMT"), (ALU, 2)),
    **dict.fromkeys(("ISETP", "FSETP", "IMNMX", "VIMNMX", "FMNMX", "HMNMX2", "HSETP2", "IABS", "SGXT"), (ALU, 2)),
    **dict.fromkeys(("F2FP", "I2FP", "VIADDMNMX", "BMSK", "P2R", "R2P"), (ALU, 2)),
    **dict.fromkeys(("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"), (FMA, 0)),  # the chip's fma_cycles
    "IMAD": (IMAD, 2),
    **dict.fromkeys(("MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO", "BREV"), (SPECIAL, 8)),
}

# Bytes of shared memory that all lanes of a warp instruction move, by its name.
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def unit(name: str, chip: Chip) -> tuple[str, float] | None:
    """The unit that an instruction occupies and for how many cycles, or None if it takes only an issue slot."""
    base = name.partition(".")[0]
    start = next((base[:n] for n in range(len(base), 1, -1) if base[:n] in UNITS), None)
    if start is None:
        return None
    which, cycles = UNITS[start]
    return which, cycles or chip.fma_cycles


def access_bytes(name: str) -> int:
    """Bytes of all lanes of a load or store, assuming no bank conflicts."""
    parts = name.split(".")
    width = next((_WIDTHS[part] for part in parts if part in _WIDTHS), 4)
    return LANES * width


def shared_bytes(name: str) -> float:
    """Bytes of shared memory that a warp's instruction accesses. For wgmma see `wgmma_bytes`."""
    base = name.partition(".")[0]
    if base == "LDSM" or base == "STSM":
        return 128 * int(name.rsplit(".", 1)[1]) if name.rsplit(".", 1)[1].isdigit() else 128
    if base in ("LDS", "STS", "LDGSTS"):
        return access_bytes(name)
    return SHARED_BYTES if base == "SHFL" else 0  # 32 results per cycle [guide]


def global_bytes(name: str) -> float:
    """Bytes that a warp's instruction moves between the multiprocessor and L2, assuming L1 misses."""
    return access_bytes(name) if name.partition(".")[0] in ("LDG", "STG", "LDGSTS", "RED", "ATOMG") else 0


_HGMMA = re.compile(r"HGMMA\.64x(\d+)x(\d+)\.")
_HMMA = re.compile(r"HMMA\.(16816|1688|1684)\.F(?:32|16)(\.TF32)?")


def products(name: str) -> tuple[int, float]:
    """Multiply-adds of one warp's tensor instruction (a quarter of a warpgroup's), and their cost in 16-bit ones."""
    if match := _HGMMA.match(name):
        amount = 16 * int(match[1]) * int(match[2])
        return amount, amount * (2 if ".TF32" in name else 1)
    if match := _HMMA.match(name):
        amount = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "1684": 16 * 8 * 4}[match[1]]
        return amount, amount * (2 if match[2] else 1)
    return 0, 0.0


def wgmma_bytes(name: str, a_in_registers: bool) -> float:
    """Bytes of shared memory that one warp's part of a wgmma reads: B once for four warps, A by rows."""
    match = _HGMMA.match(name)
    if match is None:
        return 0
    columns, depth = int(match[1]), int(match[2])
    item = 4 if ".TF32" in name else 2
    return (columns * depth / 4 + (0 if a_in_registers else 16 * depth)) * item
