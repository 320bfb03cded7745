"""How the ops' `cpu` modules call ``libfastinpaint_cpu.so``: the library, dtype codes, layouts, threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastinpaint import _native
from fastinpaint.ops import map_memory
from fastinpaint.ops.types import Source

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
    wide = torch.float64 if source.x.dtype == torch.float64 else torch.float32
    mean, scale, shift = (None if v is None else v.to(wide).contiguous() for v in source[1:4])
    addend = None if source.addend is None else dense(source.addend.to(source.x.dtype))
    return Source(dense(source.x), mean, scale, shift, source.relu, addend)


def c_sources(sources: Sequence[Source]) -> ctypes.Array[CSource]:
    """Dense sources as a C array; it points into them, so they must outlive it."""
    pack = [
        CSource(*(None if t is None else t.data_ptr() for t in (s.x, s.mean, s.scale, s.shift, s.addend)),
                s.x.shape[1], int(s.relu))
        for s in sources
    ]  # fmt: skip
    return (CSource * len(pack))(*pack)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The tensor's address, null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def size(value: int) -> ctypes.c_int64:
    """An int64 argument."""
    return ctypes.c_int64(value)
