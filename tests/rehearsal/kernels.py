"""This library's kernels on the fake GPU: CUDA C++ emulated, Triton interpreted.

Both reject what a GPU would: memory of the host, and streams other than the current one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from tests.rehearsal.cuda import CAPABILITY, CUDAGraph, Stream
from tests.rehearsal.tensors import Memory, StandIn

QUERIES = (
    "_workspace",
    "_sizeof",
    "_footprint",
    "_launches",
    "_versions",
    "_cuda_error",
)  # what is asked of the host, without a stream


def do(launch: Callable[[], None]) -> None:
    """Launch now, or at each replay if a graph is being captured."""
    graph = CUDAGraph.capturing
    if graph is None or graph.recording not in _get_current_dispatch_mode_stack():
        launch()
    else:
        graph.launch(launch)


def addresses(value: Any) -> Iterator[int]:
    """Every address that an argument of a launch holds."""
    if isinstance(value, ctypes.c_void_p):
        yield value.value or 0
    elif isinstance(value, ctypes.Structure):
        for name, kind, *_ in value._fields_:
            part = getattr(value, name)
            if kind is ctypes.c_void_p:
                yield part or 0
            else:
                yield from addresses(part)
    elif isinstance(value, ctypes.Array):
        for part in value:
            yield from addresses(part)
    elif hasattr(value, "_obj"):  # byref
        yield from addresses(value._obj)


def copied(value: Any) -> Any:
    """A copy of an argument, because structures may change after the launch is recorded."""
    if not hasattr(value, "_obj"):
        return value
    return ctypes.byref(type(value._obj).from_buffer_copy(value._obj))


class Guarded:
    """The emulated library; a launch may name the device's memory only, and its last argument is the current stream."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if name.endswith(QUERIES) or not name.startswith("fi_"):
            return function

        def launch(*arguments: Any) -> int:
            *given, stream = arguments
            assert (stream.value or 0) == Stream.current.cuda_stream, f"{name} was not given the current stream"
            for address in (a for argument in given for a in addresses(argument) if a):
                if not Memory.has(address):
                    raise RuntimeError(f"{name}: an illegal memory access: {address:#x} is not the device's.")
            kept = [copied(argument) for argument in given]

            refused = 0

            def now() -> None:
                nonlocal refused
                refused = function(*kept, None)

            do(now)
            return refused

        return launch


def install_cuda() -> None:
    """Use the emulated library as ``libfastinpaint_cuda.so``."""
    from fastinpaint.ops.dispatch import native, native_cuda
    from tools.verify import emulated

    os.environ["FI_SHARED"] = str(native_cuda.SHARED[CAPABILITY])
    library = Guarded(ctypes.CDLL(str(emulated.build())))
    load, why_not = native.load, native.why_not
    native.load = lambda name: library if name == "cuda" else load(name)  # type: ignore[assignment]
    native.why_not = lambda name: None if name == "cuda" else why_not(name)


def install_triton() -> None:
    """Interpret kernels with checks, while the rest of the process behaves as if they were compiled."""
    os.environ["TRITON_INTERPRET"] = "1"
    import triton
    from triton.runtime.interpreter import GridExecutor

    from fastinpaint.ops.dispatch import registry, triton_support
    from fastinpaint.testing import interpreter

    interpreter.install()
    for op in registry.OPS:
        assert not isinstance(registry.find(op, "triton"), str)
    triton.knobs.runtime.interpret = True  # as the variable says, which others must not see
    del os.environ["TRITON_INTERPRET"]
    triton_support.INTERPRETING = False
    upstream = GridExecutor.__call__

    def held(value: Any) -> Any:
        if isinstance(value, StandIn):
            return value.held
        if isinstance(value, Tensor):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        return tuple(map(held, value)) if type(value) is tuple else value

    def call(self: Any, *args: Any, **options: Any) -> None:
        given, named = tuple(map(held, args)), {key: held(value) for key, value in options.items()}
        do(lambda: upstream(self, *given, **named))

    GridExecutor.__call__ = call  # type: ignore[method-assign]
    triton.testing.do_bench = do_bench


def do_bench(fn: Callable[[], object], warmup: int = 25, rep: int = 100, return_mode: str = "mean") -> float:
    """`triton.testing.do_bench` that runs once and returns a fake time."""
    assert return_mode in ("min", "max", "mean", "median", "all")
    fn()
    torch.cuda.synchronize()
    return 1.0


def few_tiles() -> None:
    """Use the smallest tile, because the interpreter computes whole tiles even for tiny layers."""
    from fastinpaint.ops.conv_block.triton import tiles

    candidates = tiles.candidates
    tiles.candidates = lambda given, work: sorted(candidates(given, work), key=lambda tile: tile.m * tile.n)[:2]
    tiles.best = lambda given, work: tiles.candidates(given, work)[0]
