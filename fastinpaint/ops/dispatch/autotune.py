"""The fastest backend of a convolution on a device: measured once per shape on request, and remembered on disk.

``fastinpaint tune`` asks for it; without its measurements `fastinpaint.ops.dispatch.registry` has a fixed order.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.dispatch import native, tuning_cache
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.dispatch.triton_support import failures
from fastinpaint.ops.types import Geometry, Source

logger = logging.getLogger(__name__)
ROUNDS = 5
REPEATS = 20  # runs between two events, whose clock has a resolution of half a microsecond


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two middle ones. Importing `statistics` would take milliseconds."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def fastest(device: torch.device, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> str | None:
    """The backend that was fastest for such a convolution on this device, or None if none was measured."""
    path = memory_file(device)
    return _lookup(path, _key(sources, weight, geometry)) if _memory(path) else None


def measure(
    device: torch.device,
    modules: Mapping[str, ModuleType],
    sources: Sequence[Source],
    weight: Tensor,
    geometry: Geometry,
) -> str | None:
    """Time forward and backward by each of the backends that can run them; remembers and returns the fastest."""
    times = {}
    for name, module in modules.items():
        try:
            times[name] = _seconds(functools.partial(_both_ways, module, sources, weight, geometry), device)
        except failures() as error:
            logger.warning("conv_block: %s is left out: %s", name, str(error).partition("\n")[0])
    if not times:
        return None
    best, path, key = min(times, key=times.__getitem__), memory_file(device), _key(sources, weight, geometry)
    _memory(path)[str(key)] = best
    _lookup.cache_clear()
    tuning_cache.write(path, _memory(path))
    logger.info("%s: %s", key, ", ".join(f"{name} {1e3 * taken:.3f} ms" for name, taken in times.items()))
    return best


def counts(device: torch.device) -> dict[str, int]:
    """By backend: the number of convolutions for which it is remembered as the fastest on this device."""
    return dict(collections.Counter(_memory(memory_file(device)).values()))


def can_measure(weight: Tensor) -> bool:
    """Whether a convolution with this weight may be run just to time it: not while traced or captured in a graph."""
    return (
        type(weight) in (Tensor, torch.nn.Parameter)
        and weight.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not (weight.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _both_ways(module: ModuleType, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> None:
    """Run forward and backward as in a training step, with the result itself as its gradient."""
    y, mean, var = module.fwd(sources, weight, None, geometry, True)
    module.bwd(y, mean, var, y, mean, sources, weight, geometry, [True] * len(sources), True, False)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """The median time of a warm run; on a GPU the device's own time, without the host's."""
    with torch.no_grad():
        run()
        if device.type == "cuda":
            with torch.cuda.device(device):
                return median(_device_times(_recorded(run)))
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return median(times)


def _device_times(run: Callable[[], None]) -> list[float]:
    """Seconds of a run between events of the current stream, several times over."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(ROUNDS):
        start.record()
        for _ in range(REPEATS):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / REPEATS)
    return times


def _recorded(run: Callable[[], None]) -> Callable[[], None]:
    """The run as a CUDA graph, which launches without Python; the run itself where it cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        logger.debug("timed launch by launch: %s", str(error).partition("\n")[0])
        return run
    return graph.replay


def memory_file(device: torch.device) -> Path:
    """One file for each device, versions and built kernels; on the CPU also for each number of threads."""
    if device.type == "cuda":
        return _memory_file(graphics_name(device), 0)
    return _memory_file(processor_name(), torch.get_num_threads())


@functools.cache
def _memory_file(device: str, threads: int) -> Path:
    package = native.HERE
    built = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(package.glob("*.so"))]
    source = tuning_cache.hash_of(package.glob("ops/**/*.py"))
    triton = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "none"
    return tuning_cache.file_of("backends", device, str(threads), torch.__version__, triton, source, *built)


@functools.cache
def graphics_name(device: torch.device) -> str:
    """The GPU's name."""
    return torch.cuda.get_device_name(device)


@functools.cache
def processor_name() -> str:
    """The processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _memory(path: Path) -> dict[str, str]:
    """A file's measurements, read once."""
    return {key: name for key, name in tuning_cache.read(path).items() if isinstance(name, str)}


@functools.lru_cache(maxsize=4096)
def _lookup(path: Path, key: tuple[Any, ...]) -> str | None:
    return _memory(path).get(str(key))


def _key(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> tuple[Any, ...]:
    """What the time depends on, as numbers. A compiler's symbols become fixed numbers."""
    maps = tuple((*map(int, s.x.shape), s.mean is not None, s.relu, s.addend is not None) for s in sources)
    rounded = weight.is_cuda and weight.dtype == torch.float32 and tf32_convolutions()
    return ("tf32" if rounded else str(weight.dtype), maps, (*map(int, weight.shape),), tuple(geometry))
