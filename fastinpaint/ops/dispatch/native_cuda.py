"""How the ops' `cuda` modules call ``libfastinpaint_cuda.so``: the library, dtype codes, layouts, streams, errors."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint.errors import UserError
from fastinpaint.ops import layout
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.layout import FORMATS, dense  # noqa: F401 - the ops' modules take `dense` from here
from fastinpaint.ops.types import Source, address  # noqa: F401 - likewise

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
TF32 = 3  # float32 maps, products in tf32: convolutions only
STATUS = {
    -1: "the kernels know no such dtype",
    -2: "the kernels take at most 128 taps and strides whose product is at most 27",
    -3: "the map has more positions than the kernels can count",
}

# Whether the wgmma path of sm_90a runs: it is off by default. "all" takes it for every 16-bit convolution that it
# can compute, which is for tests.
HOPPER = "FASTINPAINT_HOPPER"
HOPPER_VALUES = {"0": 0, "1": 1, "all": 2}

# Tests put the emulated library of csrc/cuda_on_cpu here; it takes tensors on the CPU.
emulated: ctypes.CDLL | None = None


C_SOURCE = struct.Struct("@5P2f2i")  # `CSource`, packed in one call


class CSource(ctypes.Structure):
    """`fi::Source` of csrc/common/cuda_source.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "addend", "mean", "scale", "shift")),
        ("scale_factor", ctypes.c_float),
        ("shift_factor", ctypes.c_float),
        ("channels", ctypes.c_int),
        ("relu", ctypes.c_int),
    )


@functools.cache
def _built() -> ctypes.CDLL:
    loaded = native.load("cuda")
    if loaded is None:
        raise RuntimeError(native.why_not("cuda"))
    return declare(loaded)


SIZES = ("fi_channel_workspace", "fi_conv_workspace", "fi_conv_wgrad_workspace")
ARGUMENTS = {  # declared, so that addresses are Python's numbers
    "fi_conv_fwd": (ctypes.c_void_p,) * 2,
    "fi_conv_norm_fwd": (ctypes.c_void_p,) * 3,
    "fi_conv_bwd": (ctypes.c_void_p,) * 4,
    "fi_batch_norm_fwd": (ctypes.c_void_p,) * 2,
    "fi_batch_norm_bwd": (ctypes.c_void_p,) * 2,
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its functions declared where that is needed; a test's library may have some of them only."""
    for name in SIZES:
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_int64
    for name, kinds in ARGUMENTS.items():
        if hasattr(library, name):
            getattr(library, name).argtypes = kinds
    if hasattr(library, "fi_cuda_error"):
        library.fi_cuda_error.restype = ctypes.c_char_p
    return library


def library() -> ctypes.CDLL:
    """The kernels: the emulated ones where a test has put them, else those built by nvcc."""
    return _built() if emulated is None else emulated


def why_not(*tensors: Tensor | None) -> str | None:
    """Why the CUDA kernels cannot take these maps, in one sentence, or None where they can."""
    if (reason := why_not_on(*tensors)) is not None:
        return reason
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            return f"the cuda backend computes in float32, bfloat16 and float16, got {tensor.dtype}."
        if tensor.dim() not in (4, 5):
            return f"the cuda backend takes maps [N, C, H, W] and [N, C, T, H, W], got {tensor.dim()} axes."
    return None


def why_not_on(*tensors: Tensor | None) -> str | None:
    """Why the CUDA kernels cannot run where these tensors are, in one sentence, or None where they can."""
    if emulated is None:
        if (reason := native.why_not("cuda")) is not None:
            return reason
        if not torch.cuda.is_available():
            return "the cuda backend needs a CUDA device, and torch finds none."
        if (reason := why_not_driver(library())) is not None:
            return reason
    needed = "cuda" if emulated is None else "cpu"
    for tensor in tensors:
        if tensor is not None and tensor.device.type != needed:
            return f"the cuda backend needs tensors on a {needed} device, got one on {tensor.device}."
    if emulated is None and tensors and tensors[0] is not None:
        major, minor = torch.cuda.get_device_capability(tensors[0].device)
        if major < 8:
            return f"the cuda backend needs compute capability 8.0 or higher, got {major}.{minor}."
    return None


@functools.cache
def why_not_driver(built: ctypes.CDLL) -> str | None:
    """Why the driver cannot run what the library's CUDA runtime launches, in one sentence, or None where it can.

    A driver runs every runtime of its own major version and of older ones.
    """
    driver, runtime = ctypes.c_int(), ctypes.c_int()
    if status := built.fi_cuda_versions(ctypes.byref(driver), ctypes.byref(runtime)):
        return f"the CUDA driver does not answer: {error_words(built, status)}."
    if driver.value // 1000 >= runtime.value // 1000:
        return None
    known, needed = (f"{v.value // 1000}.{v.value % 1000 // 10}" for v in (driver, runtime))
    return (
        f"the cuda kernels are built with CUDA {needed}, and the driver here runs at most {known}; update the driver."
    )


def error_words(built: ctypes.CDLL, status: int) -> str:
    """The message of a status: the kernels' own, or the CUDA runtime's."""
    return STATUS.get(status) or f"CUDA error {status}, {built.fi_cuda_error(status).decode()}"


# Bytes of shared memory that a block may have, by compute capability; others get what all chips have.
SHARED = {(8, 0): 163 << 10, (8, 7): 163 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10, (10, 3): 227 << 10}
SHARED_LEAST = 99 << 10


def shared_limit(like: Tensor) -> int:
    """Bytes of shared memory that a block on like's device may have: an A100's where emulated, an H200's of meta."""
    if not like.is_cuda:
        return SHARED[9, 0] if like.is_meta else SHARED[8, 0]
    return SHARED.get(torch.cuda.get_device_capability(like.device), SHARED_LEAST)


def hopper(like: Tensor) -> int:
    """Whether convolutions of such maps take the wgmma path: 0 never, 1 if it may pay, 2 always if possible."""
    if os.environ.get(HOPPER, "0") == "0":  # as is usual
        return 0
    asked = HOPPER_VALUES[hopper_asked()]
    return asked if asked and why_not_hopper(like) is None else 0


def hopper_asked() -> str:
    """The value of ``FASTINPAINT_HOPPER``.

    Raises:
        UserError: the value is unknown.
    """
    asked = os.environ.get(HOPPER, "0")
    if asked not in HOPPER_VALUES:
        raise UserError(f"{HOPPER} must be one of {', '.join(HOPPER_VALUES)}, got {asked!r}.")
    return asked


def why_not_hopper(like: Tensor | None = None) -> str | None:
    """Why the wgmma path cannot run on like's device (by default the current one), in one sentence, or None."""
    if emulated is not None:
        return None
    if (reason := native.why_not("cuda")) is not None:
        return reason
    if not hasattr(library(), "fi_hopper_launch"):
        return "the cuda kernels are built without sm_90a; name 90a in FASTINPAINT_CUDA_ARCHS."
    if not torch.cuda.is_available():
        return "the wgmma path needs a CUDA device, and torch finds none."
    major, minor = torch.cuda.get_device_capability(like.device if like is not None and like.is_cuda else None)
    return None if (major, minor) == (9, 0) else f"the wgmma path is for compute capability 9.0, got {major}.{minor}."


def call(op: str, function: str, like: Tensor, *arguments: object) -> None:
    """Call a kernel's entry point on the current stream of like's device.

    Raises:
        RuntimeError: the launch was refused; names the op and says why.
    """
    built = _built() if emulated is None else emulated
    if like.is_cuda:
        with torch.cuda.device(like.device):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            status = getattr(built, function)(*arguments, stream)
    else:
        status = getattr(built, function)(*arguments, None)
    if status:
        raise RuntimeError(f"{op}: {function} was refused: {error_words(library(), status)}.")


def empty(like: Tensor, channels: int) -> Tensor:
    """An uninitialised channels-last map of like's batch, space, dtype and device."""
    return layout.empty((like.shape[0], channels, *like.shape[2:]), like)


def vector(like: Tensor, channels: int) -> Tensor:
    """An uninitialised float32 vector ``[C]`` on like's device."""
    return torch.empty(channels, dtype=torch.float32, device=like.device)


def workspace(like: Tensor, size: int) -> Tensor:
    """Uninitialised bytes on like's device."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def positions(x: Tensor) -> int:
    """N * space."""
    return x.numel() // x.shape[1] if x.shape[1] else 0


def dense_source(source: Source) -> Source:
    """The source with dense maps and dense float32 vectors."""
    x, mean, scale, shift, relu, addend = source
    if mean is not None and scale is not None and shift is not None:
        mean, scale, shift = mean.float().contiguous(), scale.float().contiguous(), shift.float().contiguous()
    layout = FORMATS[x.dim()]
    addend = None if addend is None else addend.contiguous(memory_format=layout)
    return Source(x.contiguous(memory_format=layout), mean, scale, shift, relu, addend)


def c_source(source: Source, scale_factor: float = 1.0, shift_factor: float = 1.0) -> CSource:
    """A dense source as the kernels take it; it points into the source, which must live until the launch is queued."""
    x, mean, scale, shift, relu, addend = source
    found = CSource(x.data_ptr(), None if addend is None else addend.data_ptr(), None, None, None)
    if mean is not None and scale is not None and shift is not None:
        found.mean, found.scale, found.shift = mean.data_ptr(), scale.data_ptr(), shift.data_ptr()
    found.scale_factor, found.shift_factor, found.channels, found.relu = (
        scale_factor,
        shift_factor,
        x.shape[1],
        int(relu),
    )
    return found


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address as an argument."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def size(value: int) -> ctypes.c_int64:
    """An int64 argument."""
    return ctypes.c_int64(value)


def strides(tensor: Tensor, order: Sequence[int]) -> list[int]:
    """The tensor's strides along `order`."""
    return list(map(tensor.stride, order))
