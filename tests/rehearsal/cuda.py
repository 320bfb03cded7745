"""Replacements of `torch.cuda` and related functions for the fake GPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.rehearsal.tensors import DEVICE, Memory, Operations, StandIn, Waiting
from tests.training.tape import Recording

NAME = "a rehearsal's stand-in for a GPU"
CAPABILITY = (9, 0)
CAPTURING = "operation not permitted when stream is capturing"
SYNCHRONISING = "called a synchronizing CUDA operation"


class Stream:
    """A CUDA stream. Work on any stream is done at once."""

    numbers = itertools.count(0)
    current: Stream

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device, self.cuda_stream = DEVICE, next(Stream.numbers)

    def wait_stream(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)

    def synchronize(self) -> None:
        refuse_to_wait()


class Event:
    """A CUDA event that uses the host's clock."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.timed, self.at = enable_timing, 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        refuse_to_wait()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds, at least 1e-6, as the fake GPU has no real clock."""
        if not (self.timed and end.timed and self.at and end.at):
            raise RuntimeError("Both events must be recorded, and made with enable_timing, before their time is taken")
        return max(1e3 * (end.at - self.at), 1e-6)


class CUDAGraph:
    """A CUDA graph on a tape; `tests.training.tape` describes its guarantees."""

    capturing: CUDAGraph | None = None

    def __init__(self, keep_graph: bool = False) -> None:
        self.recording = Recording()

    def launch(self, work: Callable[[], None]) -> None:
        """Record a kernel's launch without running it."""
        self.recording.calls.append((work, (), {}, []))

    def replay(self) -> None:
        self.recording.replay()


@contextmanager
def graph(
    cuda_graph: CUDAGraph, pool: Any = None, stream: Stream | None = None, capture_error_mode: str = "global"
) -> Iterator[None]:
    """Record what is done inside."""
    assert CUDAGraph.capturing is None, "a graph is being recorded already"
    assert capture_error_mode in ("global", "thread_local", "relaxed"), capture_error_mode
    before, CUDAGraph.capturing, Waiting.refusal = Waiting.refusal, cuda_graph, CAPTURING
    try:
        with on(stream or Stream()), cuda_graph.recording:
            yield
    finally:
        CUDAGraph.capturing, Waiting.refusal = None, before
        cuda_graph.recording.undo()


@contextmanager
def on(stream: Stream | None) -> Iterator[Stream | None]:
    """`torch.cuda.stream`."""
    before = Stream.current
    Stream.current = stream or before
    try:
        yield stream
    finally:
        Stream.current = before


@contextmanager
def current(device: Any) -> Iterator[None]:
    """`torch.cuda.device`; there is one."""
    checked(device)
    yield


def checked(device: Any = None) -> None:
    """Accept the only device, or none."""
    assert device in (None, 0, -1) or torch.device(device) in (DEVICE, torch.device("cuda")), device


def refuse_to_wait(device: Any = None) -> None:
    """`torch.cuda.synchronize`."""
    checked(device)
    if CUDAGraph.capturing is not None:
        raise RuntimeError(CAPTURING)


def set_sync_debug_mode(mode: int | str) -> None:
    Waiting.refusal = {"default": None, "error": SYNCHRONISING, 0: None, 2: SYNCHRONISING}[mode]


def reset_peak(device: Any = None) -> None:
    checked(device)
    Memory.most = Memory.now


def compiled(model: nn.Module, *, mode: str) -> nn.Module:
    """`torch.compile` that only checks its mode."""
    assert mode in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"), mode
    return model


def answer(value: Any) -> Callable[..., Any]:
    """A function of an optional device that returns the value."""

    def function(device: Any = None) -> Any:
        checked(device)
        return value

    return function


def install() -> None:
    """Give this process the fake GPU."""
    Stream.current = Stream()  # the default one, number 0
    properties = SimpleNamespace(
        name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1], multi_processor_count=132, total_memory=141 * 10**9
    )
    answers: dict[str, Any] = {
        "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
        "device_count": lambda: 1, "current_device": lambda: 0, "is_bf16_supported": lambda *_: True,
        "get_device_name": answer(NAME), "get_device_capability": answer(CAPABILITY),
        "get_device_properties": answer(properties), "set_device": checked, "device": current,
        "Stream": Stream, "Event": Event, "stream": on, "synchronize": refuse_to_wait,
        "current_stream": lambda device=None: Stream.current, "CUDAGraph": CUDAGraph, "graph": graph,
        "is_current_stream_capturing": lambda: CUDAGraph.capturing is not None,
        "set_sync_debug_mode": set_sync_debug_mode, "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(), "set_rng_state": lambda *_: None,
        "memory_allocated": lambda device=None: Memory.now, "max_memory_allocated": lambda device=None: Memory.most,
        "mem_get_info": lambda device=None: (properties.total_memory - Memory.now, properties.total_memory),
        "memory_reserved": lambda device=None: Memory.now, "reset_peak_memory_stats": reset_peak, "_initialized": True,
    }  # fmt: skip
    for name, value in answers.items():
        assert hasattr(torch.cuda, name), f"torch.cuda.{name} is none of torch's"
        setattr(torch.cuda, name, value)
    torch.backends.cudnn.is_available = lambda: True
    torch.backends.cudnn.version = lambda: 91900
    torch.compile = compiled  # type: ignore[assignment]
    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # it forbids tensors that hold another
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.autograd.set_multithreading_enabled(False)  # a thread for the device would be another's
    Tensor.is_pinned = lambda self, device=None: not isinstance(self, StandIn)  # type: ignore[assignment]
    Tensor.pin_memory = lambda self, device=None: self  # type: ignore[assignment]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor shows the modes what it does
    Operations().__enter__()
