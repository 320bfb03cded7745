"""How the ops' `cpu` modules call ``libfastinpaint_cpu.so``: the library, dtype codes, layouts, threads."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.layout import FORMATS, dense, memory_format  # noqa: F401 - the ops' modules take them from here
from fastinpaint.ops.types import Source, SourceGrad, source_grad_of

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
ISAS = ("scalar", "avx2", "avx512", "avx512bf16", "amx")


C_SOURCE = struct.Struct("@5P2q")  # `fi::Source` of csrc/activation/cpu.h
C_GRADS = struct.Struct("@5P")  # `fi::SourceGrads` of csrc/conv_block/cpu/winograd.h, a `SourceGrad`
NO_GRAD, NO_ADDRESSES = SourceGrad(), C_GRADS.pack(0, 0, 0, 0, 0)

# What the kernels take: p an address, an array or None, l an int64, i an int, d a double. Declared once, so that
# arguments are Python's numbers: converting each of them took a small layer longer than its arithmetic.
ARGUMENTS = {
    "fi_cpu_activation_fwd": "piplii",
    "fi_cpu_activation_bwd": "ppllppplii",
    "fi_cpu_batch_stats": "pllppii",
    "fi_cpu_batch_norm_fwd": "p",
    "fi_cpu_batch_norm_bwd": "p",
    "fi_cpu_winograd_tile": "pii",
    "fi_cpu_winograd_fwd": "ppippppppiii",
    "fi_cpu_winograd_dgrad": "pppppipiii",
    "fi_cpu_winograd_wgrad": "ppipppiii",
    "fi_cpu_widen_fwd": "ppippppppii",
    "fi_cpu_widen_dgrad": "pppppipii",
    "fi_cpu_narrow": "ppippppii",
    "fi_cpu_thin_wgrad": "ppipippii",
    "fi_cpu_depthwise_fwd": "ppippppppi",
    "fi_cpu_depthwise_dgrad": "pppppipi",
    "fi_cpu_depthwise_bwd": "pppppipppi",
    "fi_cpu_matmul_fwd": "ppippppppi",
    "fi_cpu_matmul_dgrad": "pppppipi",
    "fi_cpu_matmul_wgrad": "ppipppi",
    "fi_cpu_matmul_bwd": "pppppipppi",
    "fi_cpu_matmul_in_one_pass": "p",
    "fi_cpu_layer_fwd": "p",
    "fi_cpu_layer_bwd": "p",
    "fi_cpu_channel_scale_bwd": "ppppppi",
    "fi_cpu_norm_act_stats": "ppppi",
    "fi_cpu_norm_act_fwd": "ppppppppplli",
    "fi_cpu_norm_act_bwd": "ppll" + "p" * 13 + "i",
}
KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "d": ctypes.c_double}


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, set to run on torch's own OpenMP threads: a second pool would spin against the first."""
    loaded = native.load("cpu")
    if loaded is None:
        raise RuntimeError(native.why_not("cpu"))
    for name, arguments in ARGUMENTS.items():
        getattr(loaded, name).argtypes = [KINDS[letter] for letter in arguments]
    try:
        openmp = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        loaded.fi_cpu_use_openmp(ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p))
    except (OSError, AttributeError):
        pass  # torch was built without OpenMP: each call starts its own threads
    return loaded


def isa() -> str:
    """The instruction set in use, one of `ISAS` (``FASTINPAINT_CPU_ISA`` asks for a lower one)."""
    return ISAS[library().fi_cpu_isa()]


def multiplies_bf16() -> bool:
    """Whether the processor multiplies pairs of bfloat16 values."""
    return ISAS.index(isa()) >= ISAS.index("avx512bf16")


def why_not(*tensors: Tensor | None) -> str | None:
    """Why the CPU kernels cannot take these maps, in one sentence, or None where they can."""
    if (reason := native.why_not("cpu")) is not None:
        return reason
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != "cpu":
            return f"the cpu backend needs tensors on the cpu, got one on {tensor.device}."
        if tensor.dtype not in DTYPES:
            return f"the cpu backend computes in float32, float64 and bfloat16, got {tensor.dtype}."
        if tensor.dim() not in (4, 5):
            return f"the cpu backend takes maps [N, C, H, W] and [N, C, T, H, W], got {tensor.dim()} axes."
    return None


def empty(like: Tensor, channels: int) -> Tensor:
    """An uninitialised channels-last map of like's batch, space and dtype."""
    return buffer_pool.empty((like.shape[0], channels, *like.shape[2:]), like.dtype, FORMATS[like.dim()])


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised channels-last map of x's shape and dtype."""
    if x.nbytes < buffer_pool.LEAST_BYTES:  # the pool would leave it to torch too, and take longer
        return torch.empty_like(x, memory_format=FORMATS[x.dim()])
    return buffer_pool.empty(x.shape, x.dtype, FORMATS[x.dim()])


def pixels(x: Tensor) -> int:
    """N * space."""
    return x.numel() // x.shape[1] if x.shape[1] else 0


def dense_source(source: Source) -> Source:
    """The source with dense maps and dense wide vectors."""
    x, mean, scale, shift, relu, addend = source
    if mean is not None and scale is not None and shift is not None:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        # Checking first costs a tenth of `Tensor.to`.
        if not mean.dtype == scale.dtype == shift.dtype == wide:
            mean, scale, shift = mean.to(wide), scale.to(wide), shift.to(wide)
        mean, scale, shift = mean.contiguous(), scale.contiguous(), shift.contiguous()
    layout = FORMATS[x.dim()]
    if addend is not None:
        addend = (addend if addend.dtype == x.dtype else addend.to(x.dtype)).contiguous(memory_format=layout)
    return Source(x.contiguous(memory_format=layout), mean, scale, shift, relu, addend)


def c_sources(sources: Sequence[Source]) -> bytes:
    """Dense sources as a C array; it points into them, so they must outlive it."""
    packed = b""
    for x, mean, scale, shift, relu, addend in sources:
        vectors = (0, 0, 0)
        if mean is not None and scale is not None and shift is not None:
            vectors = (mean.data_ptr(), scale.data_ptr(), shift.data_ptr())
        packed += C_SOURCE.pack(x.data_ptr(), *vectors, 0 if addend is None else addend.data_ptr(), x.shape[1], relu)
    return packed


def empty_grads(sources: Sequence[Source], needs: Sequence[bool]) -> tuple[list[SourceGrad], bytes]:
    """Memory for the gradients of dense sources, and its addresses as a C array."""
    grads, packed = [], b""
    for (x, mean, _, _, _, addend), needed in zip(sources, needs, strict=True):
        if not needed:
            grads.append(NO_GRAD)
            packed += NO_ADDRESSES
            continue
        small = x.nbytes < buffer_pool.LEAST_BYTES  # most layers' maps: one call of torch each
        dx = torch.empty_like(x, memory_format=FORMATS[x.dim()]) if small else empty_like(x)
        dmean = dscale = dshift = daddend = None
        vectors = (0, 0, 0)
        if mean is not None:
            dmean, dscale, dshift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
            vectors = (dmean.data_ptr(), dscale.data_ptr(), dshift.data_ptr())
        if addend is not None:
            daddend = torch.empty_like(dx) if small else empty_like(x)
        packed += C_GRADS.pack(dx.data_ptr(), *vectors, 0 if daddend is None else daddend.data_ptr())
        grads.append(source_grad_of((dx, dmean, dscale, dshift, daddend)))
    return grads, packed


@functools.cache
def array(kind: type, length: int) -> Any:
    """The class ``kind * length``. ctypes would make it again whenever its last array is freed."""
    return kind * length  # type: ignore[operator]
