"""Memory for the CPU backend's maps, kept from one use to the next.

The system hands out a large map's pages one fault at a time, zeroed, and takes them back when the map dies: at paper
size that is a million faults a training step. So the buffer of a dead map is kept for the next map of its size.
Buffers are kept while they and those in use come to less than `SHARE` of what has been in use at one time: late in
backward, when most maps are dead, the gradients that oneDNN and torch allocate themselves need the room. Up to
`LITTLE` all are kept: of a layer alone, which has two maps, one would be of fresh pages each time.

Buffers are mapped on their own. In malloc's heap, which takes all below 32 MiB, they and oneDNN's outputs would leave
gaps between them that no map fits into and that the system does not get back.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

SHARE = 0.85
LITTLE = 128 << 20  # bytes
LEAST_BYTES = 1 << 20  # malloc itself keeps the pages of smaller maps


class BufferPool:
    """Buffers by their size in bytes; one lent to a tensor comes back when the tensor's storage dies."""

    def __init__(self) -> None:
        self.in_use = self.kept = self.most_in_use = 0  # bytes
        self.disabled = False  # whether torch allocates the maps meanwhile
        self._kept: OrderedDict[int, list[mmap.mmap]] = OrderedDict()  # the size longest unused first
        # A storage may die anywhere, in the middle of `allocate` too: its buffer waits here, where no lock is needed.
        self._returned: deque[mmap.mmap] = deque()
        self._lock = threading.Lock()

    def allocate(self, size: int) -> torch.UntypedStorage:
        """An uninitialised storage of `size` bytes."""
        with self._lock:
            if self._returned:
                self._take_back()
            buffers = self._kept.get(size)
            if buffers:
                buffer = buffers.pop()
                self._kept.move_to_end(size)
                self.kept -= size
            else:
                self._drop(self.in_use + self.kept + size - self._room())
                buffer = _map(size)
            self.in_use += size
            self.most_in_use = max(self.most_in_use, self.in_use)
        lease = np.frombuffer(buffer, dtype=np.uint8)
        weakref.finalize(lease, self._returned.append, buffer).atexit = False
        return torch.from_numpy(lease).untyped_storage()

    def clear(self) -> None:
        """Give every buffer that no map uses back to the system."""
        with self._lock:
            self._take_back()
            self._drop(self.kept)
            self.most_in_use = self.in_use

    def _room(self) -> int:
        """Bytes that the buffers in use and those kept may come to before kept ones are dropped."""
        return max(int(SHARE * self.most_in_use), min(LITTLE, self.most_in_use))

    def _take_back(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            size = len(buffer)
            self._kept.setdefault(size, []).append(buffer)
            self.in_use -= size
            self.kept += size
        self._drop(self.in_use + self.kept - self._room())

    def _drop(self, excess: int) -> None:
        while excess > 0 and self._kept:
            size, buffers = next(iter(self._kept.items()))
            if buffers:
                buffers.pop()
                self.kept -= size
                excess -= size
            if not buffers:
                del self._kept[size]


def _map(size: int) -> mmap.mmap:
    """Fresh pages, large ones where the system has any: a fault and a line of the page table for 2 MiB."""
    try:
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"out of memory: the system has no {size} bytes for a map.") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


memory = BufferPool()


def clear() -> None:
    """Give the memory of dead maps back to the system."""
    memory.clear()


@contextmanager
def disabled() -> Iterator[None]:
    """Inside, torch allocates every map, in any thread, so that its profiler sees what is held."""
    before, memory.disabled = memory.disabled, True
    try:
        yield
    finally:
        memory.disabled = before


def empty(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """An uninitialised map, as torch.empty makes it."""
    size = dtype.itemsize * math.prod(shape)
    if size < LEAST_BYTES or memory.disabled:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    channels, *space = shape[1:]
    strides, step = [], channels
    for length in reversed(space):
        strides.append(step)
        step *= length
    return torch.empty(0, dtype=dtype).set_(memory.allocate(size), 0, shape, (step, 1, *reversed(strides)))
