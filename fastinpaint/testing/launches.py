"""GPU backends whose launches do nothing, to count and time the host's work on a machine without a GPU.

Inside `without_launches` such a backend takes tensors of the CPU. Its results are uninitialised memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from fastinpaint.ops.dispatch import native_cuda, triton_launch, triton_support

TRITON_KERNELS = (
    "activation.triton_kernels", "batch_norm.triton_kernels", "conv_block.triton.fwd_kernel",
    "conv_block.triton.dgrad_kernel", "conv_block.triton.wgrad_kernel", "conv_block.triton.box_wgrad_kernel",
    "conv_block.triton.finish_kernel", "conv_block.triton.groups_kernel",
)  # fmt: skip


class _Library:
    """The entry points of the CUDA kernels."""

    def __init__(self, launched: list[str]) -> None:
        self._launched = launched

    def __getattr__(self, name: str) -> Callable[..., int]:
        size, launched = 64 if name in native_cuda.SIZES else 0, self._launched

        def answer(*arguments: Any) -> int:
            launched.append(name)
            return size

        setattr(self, name, answer)
        return answer


class _Kernel:
    """A kernel of Triton's."""

    def __init__(self, name: str, launched: list[str]) -> None:
        def launch(*arguments: Any, **options: Any) -> None:
            launched.append(name)

        self._launch = launch

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self._launch


@contextmanager
def without_launches(backend: str) -> Iterator[list[str]]:
    """Inside the block a backend's launches do nothing. Yields the list of the calls that would have been made.

    Args:
        backend: ``cuda`` or ``triton``. The latter must be installed.
    """
    launched: list[str] = []
    with ExitStack() as patches:
        if backend == "cuda":
            patches.enter_context(mock.patch.object(native_cuda, "emulated", _Library(launched)))
        else:
            patches.enter_context(mock.patch.object(triton_support, "INTERPRETING", True))
            # a prepared launch passes its numbers by position: the stand-in is not given them by name in every call
            patches.enter_context(mock.patch.object(triton_launch, "partial", lambda launch, **numbers: launch))
            for room in TRITON_KERNELS:
                module = importlib.import_module(f"fastinpaint.ops.{room}")
                for name in [found for found in vars(module) if found.endswith("_kernel")]:
                    patches.enter_context(mock.patch.object(module, name, _Kernel(name, launched)))
        yield launched
