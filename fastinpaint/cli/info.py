"""``fastinpaint info``: what is built, what can run here and why not."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from fastinpaint._version import __version__
from fastinpaint.ops.dispatch import native, native_cuda, registry
from fastinpaint.ops.types import Geometry, Source

CUDNN_TRAP = range(90800, 91500)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> None:
    """Print everything."""
    for title, lines in (
        ("versions", versions()),
        ("built", built()),
        ("can run here", runnable()),
        ("known traps", traps()),
    ):
        print(f"{title}:")
        for line in lines:
            print(f"  {line}")


def versions() -> Iterator[str]:
    """Software and devices."""
    yield f"fastinpaint {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    yield f"torch {torch.__version__}, {cuda}, {f'cuDNN {cudnn}' if cudnn else 'no cuDNN'}"
    yield f"triton {_installed('triton') or 'not installed'}"
    yield f"cpu: {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        yield f"gpu {i}: {torch.cuda.get_device_name(i)}, sm_{major}{minor}"


def built() -> Iterator[str]:
    """The two compiled libraries."""
    for name in ("cpu", "cuda"):
        reason = native.why_not(name)
        detail = f", using {_cpu_isa()}" if name == "cpu" and reason is None else ""
        yield f"{name} kernels: {'yes' + detail if reason is None else reason}"


def runnable() -> Iterator[str]:
    """Every backend on a map of the device it is for."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in registry.BACKENDS:
        refusals: dict[str, list[str]] = {}
        for op in registry.OPS:
            where = torch.device("cpu") if name == "cpu" else device
            reason = registry.why_not(op, name, *_example(op, where))
            if reason is not None:
                refusals.setdefault(reason, []).append(op)
        yield f"{name}: yes" if not refusals else f"{name}: no"
        for reason, ops in refusals.items():
            yield f"  {', '.join(ops)}: {reason}"
    yield _hopper()
    asked = os.environ.get(registry.VARIABLE)
    yield f"{registry.VARIABLE}={asked}" if asked else f"{registry.VARIABLE} is not set: auto"


def traps() -> Iterator[str]:
    """What this machine's versions are known to do wrong."""
    found = False
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    if cudnn is not None and cudnn in CUDNN_TRAP:
        found = True
        yield (
            f"cuDNN {cudnn} refuses contiguous bfloat16 conv3d, and torch falls back to a kernel that is four times "
            "slower; give plain models channels_last_3d. Accelerated ones use it anyway."
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        found = True
        yield "TRITON_INTERPRET=1: Triton kernels are interpreted, thousands of times slower than compiled."
    if not found:
        yield "none for these versions"


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_isa() -> str:
    from fastinpaint.ops.dispatch import native_cpu

    return native_cpu.isa()


def _hopper() -> str:
    """Whether the cuda convolutions' wgmma path runs."""
    name = f"{native_cuda.HOPPER}={native_cuda.hopper_asked()}"
    if native_cuda.hopper_asked() == "0":
        return f"{name}: the cuda backend's wgmma path for sm_90a is off; it has not run on a GPU yet, 1 turns it on"
    reason = native_cuda.why_not_hopper()
    return f"{name}: wide convolutions of the cuda backend take wgmma" if reason is None else f"{name}: {reason}"


def _example(op: str, device: torch.device) -> tuple[object, ...]:
    """What an op's `why_not` takes: a small float32 video, or a vector."""
    x = torch.zeros(1, 4, 2, 4, 4, device=device)
    if op == "activation":
        return ([Source(x, relu=True)],)
    if op == "batch_norm":
        return x[0, 0, 0, 0], None, None, None
    weight = torch.zeros(8, 4, 3, 3, 3, device=device)
    return [Source(x)], weight, Geometry((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))
