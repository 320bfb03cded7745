"""How the ops' `cpu` modules call ``libfastinpaint_cpu.so``: the library, dtype codes, layouts, threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastinpaint import _native
from fastinpaint.ops import map_memory
from fastinpaint.ops.types import Source, address

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


class CSource(ctypes.Structure):
    """`fi::Source` of csrc/activation/cpu.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "mean", "scale", "shift", "addend")),
        ("channels", ctypes.c_int64),
        ("relu", ctypes.c_int64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, set to run on torch's own OpenMP threads: a second pool would spin against the first."""
    loaded = _native.load("cpu")
    if loaded is None:
        raise RuntimeError(_native.why_not("cpu"))
    try:
        openmp = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        loaded.fi_cpu_use_openmp(ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p))
    except (OSError, AttributeError):
        pass  # a torch built otherwise: each call then starts threads of its own
    return loaded


def isa() -> str:
    """The instruction set in use: scalar, avx2 or avx512 (``FASTINPAINT_CPU_ISA`` asks for a lower one)."""
    return ("scalar", "avx2", "avx512")[library().fi_cpu_isa()]


def why_not(*tensors: Tensor | None) -> str | None:
    """Why the CPU kernels cannot take these maps, in one sentence, or None where they can."""
    if (reason := _native.why_not("cpu")) is not None:
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


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last for maps of x's number of axes."""
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def dense(x: Tensor) -> Tensor:
    """x with its channels innermost and no gaps; a copy only where it is not so already."""
    return x.contiguous(memory_format=memory_format(x))


def empty(like: Tensor, channels: int) -> Tensor:
    """An uninitialised channels-last map of like's batch, space and dtype."""
    return map_memory.empty((like.shape[0], channels, *like.shape[2:]), like.dtype, memory_format(like))


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised channels-last map of x's shape and dtype."""
    return empty(x, x.shape[1])


def pixels(x: Tensor) -> int:
    """N * space."""
    return x.numel() // x.shape[1] if x.shape[1] else 0


def dense_source(source: Source) -> Source:
    """The source with dense maps and dense wide vectors."""
    x, mean, scale, shift, relu, addend = source
    if mean is not None and scale is not None and shift is not None:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        mean, scale, shift = dense_vector(mean, wide), dense_vector(scale, wide), dense_vector(shift, wide)
    if addend is not None:
        addend = dense(addend if addend.dtype == x.dtype else addend.to(x.dtype))
    return Source(dense(x), mean, scale, shift, relu, addend)


def dense_vector(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """The vector without gaps in that dtype. Asking whether it is so already costs a tenth of `Tensor.to`."""
    return (vector if vector.dtype == dtype else vector.to(dtype)).contiguous()


def c_sources(sources: Sequence[Source]) -> ctypes.Array[CSource]:
    """Dense sources as a C array; it points into them, so they must outlive it."""
    pack = [
        CSource(address(x), address(mean), address(scale), address(shift), address(addend), x.shape[1], relu)
        for x, mean, scale, shift, relu, addend in sources
    ]
    return array(CSource, len(pack))(*pack)


@functools.cache
def array(kind: type, length: int) -> Any:
    """The class ``kind * length``: ctypes makes it anew whenever the last of its arrays has died."""
    return kind * length  # type: ignore[operator]


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address as an argument."""
    return ctypes.c_void_p(address(tensor))


def size(value: int) -> ctypes.c_int64:
    """An int64 argument."""
    return ctypes.c_int64(value)
